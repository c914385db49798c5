"""Categorical values -> rows: by frequency, or by hashing.

A value is 32 bits, or missing (null), which is a value like any other. With a
vocabulary, row 0 is "unknown": what training has not, or too seldom, seen;
the other rows hold the values by falling count, ties by value with missing
first. Hashing has no unknown row and needs no pass over the data.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.vocabulary.keys import keys_of
from dlrm_jax.vocabulary.lookup import Lookup

FOLDER = 'vocabulary'
"""In a prepared set: a file for each feature that has a vocabulary."""

HASH = 'splitmix64(key, or 2^32 where missing) mod rows'
"""How `hashed_rows` works, for who reads a set."""

_MISSING = 1 << 32
"""What hashing takes a missing value for: beside all values of 32 bits."""


class Vocabulary:
  """The rows of the values that training saw often enough.

  Attributes:
    counts: frame of `key` (u32, null is missing) and `count`, in the order of
      the rows 1, 2, ...
  """

  def __init__(self, counts: pl.DataFrame) -> None:
    self.counts = counts
    null = counts['key'].is_null().to_numpy()
    rows = np.arange(1, counts.height + 1, dtype=np.uint64)
    keys = counts['key'].fill_null(0).to_numpy()
    self._missing = int(rows[null].sum())  # 0, unknown, where it has no row
    self._table = Lookup.of(keys[~null], rows[~null])

  @classmethod
  def of(cls, counts: pl.DataFrame, min_count: int) -> 'Vocabulary':
    """The vocabulary of values counted in the training rows."""
    kept = counts.filter(pl.col('count') >= min_count)
    return cls(
      kept.sort('count', 'key', descending=[True, False], nulls_last=False)
    )

  @classmethod
  def load(cls, path: Path) -> 'Vocabulary':
    """Reads what `save` wrote."""
    return cls(pl.read_parquet(path))

  def save(self, path: Path) -> None:
    """Keeps keys and counts, in row order, as Parquet."""
    self.counts.write_parquet(path)

  @property
  def rows(self) -> int:
    """Rows, with the unknown one."""
    return len(self.counts) + 1

  def lookup(self, values: pl.Series) -> np.ndarray:
    """Values u32[n] -> rows i32[n]."""
    rows = self._table(values.fill_null(0).to_numpy())
    if values.null_count():
      rows[values.is_null().to_numpy()] = self._missing
    return rows


def save_vocabularies(folder: Path, words: Mapping[str, Vocabulary]) -> None:
  """Keeps vocabularies by feature in a prepared set's folder."""
  (folder / FOLDER).mkdir(exist_ok=True)
  for name, kept in words.items():
    kept.save(folder / FOLDER / f'{name}.parquet')


def load_vocabularies(
  folder: Path, features: Iterable[str]
) -> dict[str, Vocabulary]:
  """What `save_vocabularies` kept.

  Raises:
    InputError: a vocabulary is missing or damaged.
  """
  folder = folder / FOLDER
  try:
    return {f: Vocabulary.load(folder / f'{f}.parquet') for f in features}
  except (OSError, pl.exceptions.PolarsError) as error:
    raise InputError(
      f'{folder}: damaged ({str(error).splitlines()[0]}); prepare the set again'
    ) from error


def hashed_rows(values: pl.Series, rows: int) -> np.ndarray:
  """Values -> rows i32[n], the same everywhere and for ever.

  The hash is splitmix64 of the value's key (of 2^32 where it is missing)
  modulo rows.

  >>> hashed_rows(pl.Series([0, 7, None], dtype=pl.UInt32), 1000).tolist()
  [535, 487, 56]
  """
  keys, missing = keys_of(values)
  keys = keys.astype(np.uint64)
  if missing is not None:
    keys[missing] = _MISSING
  return (splitmix64(keys) % np.uint64(rows)).astype(np.int32)


def splitmix64(x: np.ndarray) -> np.ndarray:
  """One step of the SplitMix64 generator from each state: u64[n] -> u64[n].

  Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
  2014.

  >>> hex(splitmix64(np.zeros(1, np.uint64))[0])
  '0xe220a8397b1dcdaf'
  """
  x = x + np.uint64(0x9E3779B97F4A7C15)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
