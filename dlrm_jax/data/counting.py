"""Stage 2: how often each value occurs in the rows that are counted.

A unit counts some millions of rows, and leaves for each column a run: its
distinct keys in rising order. `merging` makes vocabularies of the runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.data.keys import keys_of
from dlrm_jax.data.raw import Sparse, flat
from dlrm_jax.data.spool import Slice
from dlrm_jax.data.units import unfinished_name

RUN_ROWS = 1 << 20
"""Rows that a unit counts, about."""


class Count(NamedTuple):
  """A unit: consecutive rows, all columns that have a vocabulary.

  Attributes:
    columns: what to count.
    slices: where the rows are.
    number: of the unit.
    prepare: what is done to values before they are counted.
    places: whether it matters where values occur first.
    output: folder for the runs.
  """

  columns: tuple[Sparse, ...]
  slices: tuple[Slice, ...]
  number: int
  prepare: 'Values'
  places: bool
  output: Path


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


class Run:
  """Distinct keys of a column in a unit's rows; mapped, not read.

  Attributes:
    keys: u32[n] or u64[n], rising.
    missing: i64[0 or 1, 2], count and first place of missing values.
  """

  def __init__(self, folder: Path, name: str) -> None:
    paths = _files(folder, name)
    self.missing = np.load(paths['missing'])
    self.keys = np.load(paths['key'], mmap_mode='r')
    self._arrays = {
      field: np.load(paths[field], mmap_mode='r')
      for field in ('key', 'count', 'first')
      if paths[field].exists()
    }
    self._texts = paths['value']

  def entries(self, start: int, stop: int) -> pl.DataFrame:
    """`key`, `count`, `first` if it is known, `value` where keys are texts."""
    frame = pl.DataFrame(
      {k: np.array(x[start:stop]) for k, x in self._arrays.items()}
    )
    if self._texts.exists():
      texts = pl.scan_ipc(self._texts).slice(start, stop - start).collect()
      frame = frame.with_columns(texts['value'])
    return frame


def _files(folder: Path, name: str) -> dict[str, Path]:
  files = {'value': folder / f'{name}.value.arrow'}
  for field in ('key', 'count', 'first', 'missing'):
    files[field] = folder / f'{name}.{field}.npy'
  return files


def grouped(slices: Sequence[Slice]) -> list[tuple[Slice, ...]]:
  """Slices in groups of about `RUN_ROWS` rows."""
  groups: list[list[Slice]] = [[]]
  rows = 0
  for part in slices:
    if rows >= RUN_ROWS:
      groups.append([])
      rows = 0
    groups[-1].append(part)
    rows += part.rows
  return [tuple(group) for group in groups]


def count(unit: Count) -> None:
  """Counts the columns one after the other."""
  work = unfinished_name(unit.output)
  work.mkdir()
  names = [column.name for column in unit.columns]
  frame = pl.concat([part.read(names) for part in unit.slices])
  for column in unit.columns:
    values = unit.prepare.of(flat(column, frame))
    first = unit.number << 32 if unit.places else None
    _save(_files(work, column.name), values, first)
  if not unit.output.exists():
    work.rename(unit.output)


def _save(files: dict[str, Path], values: pl.Series, first: int | None) -> None:
  """Writes a run.

  Args:
    files: where to.
    values: of a unit's rows.
    first: place of the first of them; None: places do not matter.
  """
  keys, missing = keys_of(values)
  places = np.arange(first or 0, (first or 0) + len(keys))
  lost = np.empty((0, 2), np.int64)
  if missing is not None:
    lost = np.array([[int(missing.sum()), places[np.argmax(missing)]]])
    values = values.filter(pl.Series(~missing))
    keys, places = keys[~missing], places[~missing]
  np.save(files['missing'], lost)
  texts = values.dtype == pl.String
  if first is None and not texts:
    distinct, counts = np.unique(keys, return_counts=True)
  else:  # about twice as long
    distinct, start, counts = np.unique(
      keys, return_index=True, return_counts=True
    )
    np.save(files['first'], places[start])
    if texts:
      found = values.gather(start).alias('value').to_frame()
      found.write_ipc(files['value'])
  np.save(files['key'], distinct)
  np.save(files['count'], counts.astype(np.int64))
