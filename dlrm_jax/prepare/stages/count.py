"""Stage 2: in how many rows each value occurs, of the rows that are counted.

A unit counts some millions of rows, and leaves for each column a run: its
distinct keys in rising order. `merging` makes vocabularies of the runs. All
runs of a unit lie in one file, of which slices are read: no file stays open,
however many units there are.
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
from dlrm_jax.prepare.units import marked, sizes_of, write_mark
from dlrm_jax.vocabulary.coder import Values
from dlrm_jax.vocabulary.columns import Sparse, flat_values
from dlrm_jax.vocabulary.keys import keys_of

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
    output: JSON file that says where the runs are; they lie beside it.
  """

  columns: tuple[Sparse, ...]
  slices: tuple[Slice, ...]
  number: int
  prepare: Values
  places: bool
  output: Path

  def sound(self) -> bool:
    """Whether all runs are there."""
    return marked(self.output) is not None


def mark_of(folder: Path, number: int) -> Path:
  """The file that says where the runs of unit `number` are."""
  return folder / f'{number:06}.json'


@dataclasses.dataclass(frozen=True)
class Run:
  """Distinct keys of a column in a unit's rows; on disk.

  Attributes:
    path: file of all numbers.
    length: distinct keys, n.
    arrays: first byte and type of `key`, `count`, and `first` if known.
    missing: i64[0 or 1, 2], count and first place of missing values.
    texts: file of the values, where keys are of texts.
  """

  path: Path
  length: int
  arrays: Mapping[str, tuple[int, str]]
  missing: np.ndarray
  texts: Path | None

  @classmethod
  def open(cls, mark: Path, column: str) -> 'Run':
    """The run of a column, of a unit that is done."""
    said = read_json(mark)['runs'][column]
    return cls(
      path=mark.with_suffix('.run'),
      length=said['length'],
      arrays={k: (start, kind) for k, (start, kind) in said['arrays'].items()},
      missing=np.array(said['missing'], np.int64).reshape(-1, 2),
      texts=mark.with_name(said['texts']) if said['texts'] else None,
    )

  @property
  def keys(self) -> np.ndarray:
    """u32[n] or u64[n], rising; a map, which is held as long as this is."""
    start, kind = self.arrays['key']
    if not self.length:
      return np.empty(0, kind)
    return np.memmap(self.path, kind, 'r', start, (self.length,))

  def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
    """Slices of `key`, `count`, and `first` if it is known."""
    file = os.open(self.path, os.O_RDONLY)
    try:
      found = {}
      for name, (first, kind) in self.arrays.items():
        size = np.dtype(kind).itemsize
        part = os.pread(file, (stop - start) * size, first + start * size)
        found[name] = np.frombuffer(part, kind)
      return found
    finally:
      os.close(file)

  def values(self, start: int, stop: int) -> pl.Series:
    """A slice of the values, where keys are of texts."""
    assert self.texts is not None, 'keys are of texts'
    frame = pl.scan_ipc(self.texts).slice(start, stop - start).collect()
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
  """A value that is several times in a bag counts once: rows are counted."""
  if not column.bag:
    return frame
  bags = pl.col(column.name).list.unique(maintain_order=True)
  return frame.select(bags)


def count(unit: Count) -> None:
  """Counts the columns one after the other."""
  names = [column.name for column in unit.columns]
  frame = pl.concat([part.read(names) for part in unit.slices])
  runs: dict[str, dict[str, Any]] = {}
  data = unit.output.with_suffix('.run')
  with replacing(data, synced=False) as work, work.open('wb') as file:
    for number, column in enumerate(unit.columns):
      values = unit.prepare.of(flat_values(column, once_a_row(column, frame)))
      first = unit.number << 32 if unit.places else None
      texts = data.with_name(f'{data.stem}-{number}.arrow')
      runs[column.name] = _save(file, texts, values, first)
  texts = [run['texts'] for run in runs.values() if run['texts']]
  files = sizes_of([data, *(data.with_name(name) for name in texts)])
  write_mark(unit.output, {'runs': runs, 'files': files})


def _save(
  file: BinaryIO, texts: Path, values: pl.Series, first: int | None
) -> dict[str, Any]:
  """Writes a run; what `Run.open` reads of it.

  Args:
    file: for the numbers.
    texts: for the values, if they are texts.
    values: of a unit's rows.
    first: place of the first of them; None: places do not matter.
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
  else:  # about twice as long
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
