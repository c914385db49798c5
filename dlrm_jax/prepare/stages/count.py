"""Stage 2: the number of rows in which each value of a column occurs.

A unit counts some 10^6 rows, and writes a run for each column: the distinct
keys in ascending order, with their counts. Stage 3 (`merge`) merges runs to
vocabularies. The runs of a unit are in one file, which is read by slices. No
file stays open, whatever the number of units.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.files import read_json, replacing
from dlrm_jax.prepare.stages.parse import Slice
from dlrm_jax.prepare.units import read_mark, sizes_of, write_mark
from dlrm_jax.vocabulary.coder import Values
from dlrm_jax.vocabulary.columns import Sparse, flat_values
from dlrm_jax.vocabulary.keys import keys_of

RUN_ROWS = 1 << 20
"""Approximate number of rows that a unit counts."""


class Count(NamedTuple):
  """A unit: consecutive rows, and all columns that have a vocabulary.

  Attributes:
    columns: the columns to count.
    slices: the rows to count.
    number: number of the unit.
    prepare: change of values before they are counted.
    places: whether to note the row where a value first occurs.
    output: JSON file with the places of the runs in the file beside it.
  """

  columns: tuple[Sparse, ...]
  slices: tuple[Slice, ...]
  number: int
  prepare: Values
  places: bool
  output: Path

  def sound(self) -> bool:
    """Whether all runs are whole."""
    return read_mark(self.output) is not None


def mark_of(folder: Path, number: int) -> Path:
  """The JSON file of unit `number`."""
  return folder / f'{number:06}.json'


@dataclasses.dataclass(frozen=True)
class KeyCounts:
  """A run on disk: distinct keys of a column, counted in the rows of a unit.

  Attributes:
    path: file of the arrays.
    length: number of distinct keys, n.
    arrays: first byte and type of the arrays `key`, `count` and, if places are
      noted, `first`.
    missing: i64[0 or 1, 2], count and first place of missing values.
    texts: file of the values, if they are texts.
  """

  path: Path
  length: int
  arrays: Mapping[str, tuple[int, str]]
  missing: np.ndarray
  texts: Path | None

  @classmethod
  def open(cls, mark: Path, column: str) -> 'KeyCounts':
    """The run of a column, from the JSON file of a unit that is done."""
    run = read_json(mark)['runs'][column]
    return cls(
      path=mark.with_suffix('.run'),
      length=run['length'],
      arrays={k: (start, kind) for k, (start, kind) in run['arrays'].items()},
      missing=np.array(run['missing'], np.int64).reshape(-1, 2),
      texts=mark.with_name(run['texts']) if run['texts'] else None,
    )

  @property
  def keys(self) -> np.ndarray:
    """Ascending keys u32[n] or u64[n], mapped from the file."""
    start, kind = self.arrays['key']
    if not self.length:
      return np.empty(0, kind)
    return np.memmap(self.path, kind, 'r', start, (self.length,))

  def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
    """Entries `start` ... `stop` - 1 of each array."""
    file = os.open(self.path, os.O_RDONLY)
    try:
      parts = {}
      for name, (first, kind) in self.arrays.items():
        size = np.dtype(kind).itemsize
        part = os.pread(file, (stop - start) * size, first + start * size)
        parts[name] = np.frombuffer(part, kind)
      return parts
    finally:
      os.close(file)

  def values(self, start: int, stop: int) -> pl.Series:
    """Values `start` ... `stop` - 1 of a run of texts."""
    assert self.texts is not None, 'the values are texts'
    frame = (
      pl.scan_ipc(self.texts, glob=False).slice(start, stop - start).collect()
    )
    return frame['value']


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


def once_a_row(column: Sparse, frame: pl.DataFrame) -> pl.DataFrame:
  """A column whose bags have each value once, because rows are counted."""
  if not column.bag:
    return frame
  bags = pl.col(column.name).list.unique(maintain_order=True)
  return frame.select(bags)


def count_values(unit: Count) -> None:
  """Counts the values of each column; writes the runs, then the JSON file."""
  names = [column.name for column in unit.columns]
  frame = pl.concat([part.read(names) for part in unit.slices])
  runs: dict[str, dict[str, Any]] = {}
  data = unit.output.with_suffix('.run')
  with replacing(data, synced=False) as work, work.open('wb') as file:
    for number, column in enumerate(unit.columns):
      values = unit.prepare.of(flat_values(column, once_a_row(column, frame)))
      first = unit.number << 32 if unit.places else None
      texts = data.with_name(f'{data.stem}-{number}.arrow')
      runs[column.name] = _write_run(file, texts, values, first)
  texts = [run['texts'] for run in runs.values() if run['texts']]
  files = sizes_of([data, *(data.with_name(name) for name in texts)])
  write_mark(unit.output, {'runs': runs, 'files': files})


def _write_run(
  file: BinaryIO, texts: Path, values: pl.Series, first: int | None
) -> dict[str, Any]:
  """Writes a run; returns the entry of the JSON file.

  Args:
    file: file for the arrays.
    texts: file for the values, if they are texts.
    values: the values of a unit's rows.
    first: place of the first value; None: places are not noted.
  """
  keys, missing = keys_of(values)
  places = np.arange(first or 0, (first or 0) + len(keys))
  lost: list[int] = []
  if missing is not None:
    lost = [int(missing.sum()), int(places[np.argmax(missing)])]
    values = values.filter(pl.Series(~missing))
    keys, places = keys[~missing], places[~missing]
  arrays = {}
  textual = values.dtype == pl.String
  if first is None and not textual:
    arrays['key'], arrays['count'] = np.unique(keys, return_counts=True)
  else:  # Takes about twice as long.
    arrays['key'], start, arrays['count'] = np.unique(
      keys, return_index=True, return_counts=True
    )
    arrays['first'] = places[start]
    if textual:
      with replacing(texts, synced=False) as work:
        values.gather(start).alias('value').to_frame().write_ipc(work)
  written = {}
  for name, array in arrays.items():
    written[name] = (file.tell(), array.dtype.str)
    array.tofile(file)
  return {
    'length': len(arrays['key']),
    'arrays': written,
    'missing': lost,
    'texts': texts.name if textual else None,
  }
