"""Values of a sparse column -> rows of its table.

Four ways: by vocabulary, by hash, as they are, and by vocabulary in a table
that is not all in memory: then every part of it finds what it has, and the
findings are put together (`Coder.found`, `Coder.rows_of`).
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
  """What is done to the values of a column first.

  Attributes:
    missing_is_zero: a missing value is the value 0.
    modulo: values are taken modulo this; 0: as they are.
  """

  missing_is_zero: bool = False
  modulo: int = 0

  def of(self, values: pl.Series) -> pl.Series:
    """The values that are counted and looked up."""
    if self.missing_is_zero:
      values = values.fill_null(0)
    if self.modulo:
      values = values % self.modulo
    return values


@dataclasses.dataclass(frozen=True)
class Coder:
  """How a column's values become rows.

  Attributes:
    column: the column.
    rows: of its table.
    hotness: ids an example, the longest bag.
    prepare: what is done to values first.
    base: row of the vocabulary's first value; values that it does not have
      get the row before.
    missing: place of the missing value in the vocabulary, from 1; 0: none.
    tables: files of the vocabulary's lookup tables; each has the keys of one
      residue of `shares(keys)`.
    bags: file of what each row becomes, if the column is expanded.
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
    """Whether its vocabulary has no row for a value that it does not have."""
    return self.column.ids == 'vocabulary' and not self.base

  def found(self, values: pl.Series, tables: Sequence[int]) -> np.ndarray:
    """Places of values in the vocabulary, from 1, i32[n]; 0: not in these.

    Args:
      values: prepared.
      tables: which of the lookup tables to look in.
    """
    keys, missing = keys_of(values)
    if len(self.tables) == 1:
      places = Lookup.open(self.tables[0])(keys) if tables else None
    else:
      places, owner = None, share_of(keys, len(self.tables))
      for number in tables:
        places = np.zeros(len(keys), np.int32) if places is None else places
        mine = np.flatnonzero(owner == number)
        places[mine] = Lookup.open(self.tables[number])(keys[mine])
    if places is None:
      places = np.zeros(len(keys), np.int32)
    if missing is not None:
      places[missing] = self.missing
    return places

  def lacks(self, values: pl.Series) -> np.ndarray:
    """Which values, as the file has them, are not in the vocabulary: bool[n].

    All lookup tables are read.
    """
    return self.found(self.prepare.of(values), range(len(self.tables))) == 0

  def rows_of(self, values: pl.Series, found: np.ndarray | None) -> np.ndarray:
    """Values -> rows, i32[n].

    Args:
      values: prepared.
      found: their places in the vocabulary, if the column has one.

    Raises:
      InputError: a value has no row.
    """
    if found is not None:
      rows = found + np.int32(self.base - 1) if self.base != 1 else found
      if self.column.modulo:  # but not of -1, which is no row
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
  """Which of so many lookup tables (at most 65,536) has a key: u16[n]."""
  mixed = (keys ^ keys >> keys.dtype.type(15)).astype(np.uint32)
  mixed = mixed * np.uint32(0x85EBCA6B) >> np.uint32(16)
  return (mixed * np.uint32(shares) >> np.uint32(16)).astype(np.uint16)


def padded(
  name: str, lengths: np.ndarray, values: np.ndarray, width: int
) -> np.ndarray:
  """Bags one after the other -> [n, width], PAD (of weights 0) behind them.

  Raises:
    InputError: a bag is longer.
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
