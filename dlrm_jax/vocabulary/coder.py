"""Values of a sparse column -> rows of its table.

Values are hashed, or are rows already, or have a place in a vocabulary. The
lookup tables of a vocabulary may exceed memory: then some of them are read at
a time, and the places that each pass finds are combined (`Coder.places_of`,
`Coder.rows_of`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.batch import PAD
from dlrm_jax.errors import InputError
from dlrm_jax.vocabulary.columns import Sparse
from dlrm_jax.vocabulary.hashing import hashed_rows
from dlrm_jax.vocabulary.keys import keys_of
from dlrm_jax.vocabulary.lookup import Lookup
from dlrm_jax.vocabulary.policy import STOP, UNKNOWN


class Values(NamedTuple):
  """A change of a column's values before they are counted and looked up.

  Attributes:
    missing_is_zero: whether a missing value is replaced by 0.
    modulo: a number modulo which values are taken; 0: values stay.
  """

  missing_is_zero: bool = False
  modulo: int = 0

  def of(self, values: pl.Series) -> pl.Series:
    """The changed values."""
    if self.missing_is_zero:
      values = values.fill_null(0)
    if self.modulo:
      values = values % self.modulo
    return values


@dataclasses.dataclass(frozen=True)
class Coder:
  """The way the values of a column become rows.

  Attributes:
    column: the column.
    rows: number of rows of its table.
    hotness: number of ids in an example, the length of the longest bag.
    prepare: change of values before they are looked up.
    base: row of the first value in the vocabulary. Values outside the
      vocabulary get the row before it.
    missing: place of the missing value in the vocabulary, from 1; 0: the
      vocabulary does not have it.
    tables: files of the lookup tables; table i has the keys for which
      `share_of(keys, len(tables))` is i.
    bags: file with the made-up bag of each row, if the column is expanded.
    out_of_range: 'stop': a value without a row is an error; 'unknown': it gets
      row 0.
  """

  column: Sparse
  rows: int
  hotness: int
  prepare: Values
  base: int = 1
  missing: int = 0
  tables: tuple[Path, ...] = ()
  bags: Path | None = None
  out_of_range: str = STOP

  @property
  def closed(self) -> bool:
    """Whether values outside the vocabulary have no row."""
    return self.column.ids == 'vocabulary' and not self.base

  def lookup(self, number: int) -> Lookup:
    """A lookup table, which is mapped."""
    return Lookup.open(self.tables[number])

  def drawn(self) -> np.ndarray:
    """The made-up ids of each row's bag after the first, i32[rows, H - 1]."""
    assert self.bags is not None
    shape = (self.rows, self.hotness - 1)
    return np.memmap(self.bags, np.int32, 'r', shape=shape)

  def places_of(self, values: pl.Series, tables: Sequence[int]) -> np.ndarray:
    """Places of values in the vocabulary, i32[n], from 1.

    Values that are in none of the given tables have place 0.

    Args:
      values: n values, changed by `prepare`.
      tables: numbers of the lookup tables to read.
    """
    keys, missing = keys_of(values)
    if len(self.tables) == 1:
      places = self.lookup(0)(keys) if tables else None
    else:
      places, owner = None, share_of(keys, len(self.tables))
      for number in tables:
        places = np.zeros(len(keys), np.int32) if places is None else places
        mine = np.flatnonzero(owner == number)
        places[mine] = self.lookup(number)(keys[mine])
    if places is None:
      places = np.zeros(len(keys), np.int32)
    if missing is not None:
      places[missing] = self.missing
    return places

  def lacks(self, values: pl.Series) -> np.ndarray:
    """Which values of a file are not in the vocabulary: bool[n]."""
    return self.places_of(self.prepare.of(values), range(len(self.tables))) == 0

  def rows_of(self, values: pl.Series, places: np.ndarray | None) -> np.ndarray:
    """Values -> rows, i32[n].

    Args:
      values: n values, changed by `prepare`.
      places: their places in the vocabulary; None if the column has none.

    Raises:
      InputError: a value has no row.
    """
    if places is not None:
      rows = places + np.int32(self.base - 1) if self.base != 1 else places
      if self.column.modulo:  # -1 is no row, and stays.
        rows = np.where(rows < 0, rows, rows % np.int32(self.rows))
      return self._checked(values, rows)
    if self.column.ids == 'hashed':
      return hashed_rows(values, self.rows)
    rows = values.cast(pl.Int64).fill_null(PAD).to_numpy()
    return self._checked(values, rows).astype(np.int32)

  def _checked(self, values: pl.Series, rows: np.ndarray) -> np.ndarray:
    least = rows.min(initial=0)
    if least >= 0 and rows.max(initial=0) < self.rows:
      return rows
    bad = (rows < 0) | (rows >= self.rows)
    if self.column.ids == 'rows':
      bad &= values.is_not_null().to_numpy()
    if not bad.any():
      return rows
    if self.out_of_range == UNKNOWN:
      return np.where(bad, 0, rows)
    value = values[int(np.argmax(bad))]
    if self.column.ids == 'rows':
      raise InputError(
        f'column {self.column.name}: id {value} is out of range; expected '
        f'0 ... {self.rows - 1}, as the table has {self.rows:,} rows'
      )
    raise InputError(
      f'column {self.column.name}: value {value} is not in the vocabulary, and '
      'it has no row for unknown values; prepare all files together'
    )


def closed_of(
  coders: Sequence[Coder],
) -> dict[str, Callable[[pl.Series], np.ndarray]]:
  """`Coder.lacks` of the columns whose vocabulary is closed, by name."""
  return {coder.column.name: coder.lacks for coder in coders if coder.closed}


def share_of(keys: np.ndarray, shares: int) -> np.ndarray:
  """Number of the lookup table, of at most 65,536, that has a key: u16[n]."""
  mixed = (keys ^ keys >> keys.dtype.type(15)).astype(np.uint32)
  mixed = mixed * np.uint32(0x85EBCA6B) >> np.uint32(16)
  return (mixed * np.uint32(shares) >> np.uint32(16)).astype(np.uint16)


def padded(
  name: str, lengths: np.ndarray, values: np.ndarray, width: int
) -> np.ndarray:
  """Bags, one after the other -> rows of a matrix [n, width].

  Args:
    name: name of the column, for messages.
    lengths: number of ids of each bag, [n].
    values: ids or weights of all bags.
    width: number of columns of the matrix.

  Returns:
    The matrix; free places have the id PAD or the weight 0.

  Raises:
    InputError: a bag is longer than `width`.
  """
  if (longest := lengths.max(initial=0)) > width:
    raise InputError(
      f'column {name}: a bag of {longest} ids; expected at most {width}, its '
      'hotness'
    )
  empty = PAD if np.issubdtype(values.dtype, np.integer) else 0
  bags = np.full((len(lengths), width), empty, values.dtype)
  bags[np.arange(width) < lengths[:, None]] = values
  return bags
