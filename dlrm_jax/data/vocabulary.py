"""Categorical values -> rows: by frequency, or by hashing.

A value is 32 bits, or missing (null), which is a value like any other. With a
vocabulary, row 0 is "unknown": what training has not, or too seldom, seen;
the other rows hold the values by falling count, ties by value with missing
first. Hashing has no unknown row and needs no pass over the data.
"""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl

FOLDER = 'vocabulary'
"""In a prepared set: a file for each feature that has a vocabulary."""

_HALF = np.uint64(32)
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
    self._table = _Table(keys[~null], rows[~null])

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
    rows = self._table.lookup(values.fill_null(0).to_numpy())
    if values.null_count():
      rows[values.is_null().to_numpy()] = self._missing
    return rows


class _Table:
  """A hash table of 32-bit keys, built once and read by whole arrays.

  Linear probing, in NumPy: measured, a Polars join (which hashes the
  vocabulary again for every block) and a binary search take twice as long,
  and much longer for millions of keys.
  """

  def __init__(self, keys: np.ndarray, rows: np.ndarray) -> None:
    self._slots = np.uint64(2 * len(keys) + 1)
    home = self._home(keys)
    order = np.argsort(home, kind='stable')
    # In order of their homes, each key takes its home or the next free slot.
    place = np.arange(len(keys))
    slot = np.maximum.accumulate(home[order] - place) + place
    self._entries = np.zeros(int(self._slots) + len(keys) + 1, np.uint64)
    self._entries[slot] = keys[order].astype(np.uint64) << _HALF | rows[order]

  def _home(self, keys: np.ndarray) -> np.ndarray:
    mixed = keys.astype(np.uint32) * np.uint32(2654435769)
    return (mixed * self._slots >> _HALF).astype(np.int64)

  def lookup(self, keys: np.ndarray) -> np.ndarray:
    """Keys u32[n] -> rows i32[n], 0 where there is none."""
    slot = self._home(keys)
    entry = self._entries[slot]
    # An empty slot ends the search: it is row 0.
    wrong = (entry != 0) & (entry >> _HALF != keys)
    left = np.flatnonzero(wrong)
    while left.size:
      slot[left] += 1
      probe = self._entries[slot[left]]
      entry[left] = probe
      left = left[(probe != 0) & (probe >> _HALF != keys[left])]
    return entry.astype(np.uint32).view(np.int32)


@dataclasses.dataclass(frozen=True)
class Hashing:
  """Rows by hash: the same everywhere and for ever.

  Attributes:
    rows: how many; the hash is splitmix64 of the value (of 2^32 where it is
      missing) modulo rows.

  >>> Hashing(1000).lookup(pl.Series([0, 7, None], dtype=pl.UInt32)).tolist()
  [535, 487, 56]
  """

  rows: int

  def lookup(self, values: pl.Series) -> np.ndarray:
    """Values u32[n] -> rows i32[n]."""
    x = values.cast(pl.UInt64).fill_null(_MISSING).to_numpy()
    return (splitmix64(x) % np.uint64(self.rows)).astype(np.int32)


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


Encoder = Vocabulary | Hashing
