"""Stage 1: pieces of raw files -> columnar files, the spool.

A file of the spool has some 2^18 rows as a reader gives them. The notes on a
piece (rows, clicks, bad rows, checksum) are in a JSON file beside its files.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.files import read_json, replacing
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.fitting import Fit, fitting
from dlrm_jax.prepare.readers.reader import FRAME_ROWS, Piece, Reader
from dlrm_jax.prepare.units import Stage, read_mark, size_is, write_mark
from dlrm_jax.vocabulary.columns import Columns


class Parse(NamedTuple):
  """A unit: one piece of one input file.

  Attributes:
    reader: reader of the format.
    piece: the piece to read.
    on_bad_row: 'stop' or 'skip'.
    fit: conditions on the rows.
    output: JSON file for the notes; files of the spool lie beside it.
  """

  reader: Reader
  piece: Piece
  on_bad_row: str
  fit: Fit
  output: Path

  def sound(self) -> bool:
    """Whether the notes are whole; `parse_again` checks the spool."""
    return read_mark(self.output) is not None


class SpoolFile(NamedTuple):
  """A file of the spool.

  Attributes:
    path: path of the file.
    rows: number of rows in it.
  """

  path: Path
  rows: int


def parse_piece(unit: Parse) -> None:
  """Reads a piece; writes its files, then the notes."""
  bad = BadRows(unit.on_bad_row)
  digest = hashlib.sha256()
  parts = []
  frames = fitting(unit.reader, unit.piece, bad, digest.update, unit.fit)
  for number, frame in enumerate(_in_large(frames)):
    path = unit.output.with_name(f'{unit.output.stem}-{number:04}.arrow')
    with replacing(path, synced=False) as work:
      frame.write_ipc(work)
    file = {'path': path.name, 'bytes': path.stat().st_size}
    parts.append(file | _notes_on(frame, unit.reader.columns))
  write_mark(
    unit.output,
    {'digest': digest.hexdigest(), 'bad': bad.to_json(), 'parts': parts},
  )


def _in_large(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
  """Joins small frames to frames of `FRAME_ROWS` rows or more."""
  held: list[pl.DataFrame] = []
  rows = 0
  for frame in frames:
    held.append(frame)
    rows += frame.height
    if rows >= FRAME_ROWS:
      yield pl.concat(held)
      held, rows = [], 0
  if rows:
    yield pl.concat(held)


def _notes_on(frame: pl.DataFrame, columns: Columns) -> dict[str, Any]:
  """Facts on a spool file that later stages need before they read it."""
  notes: dict[str, Any] = {
    'rows': frame.height,
    'clicks': int(frame[columns.labels[0]].sum()),
    'types': {c.name: str(frame[c.name].dtype) for c in columns.sparse},
    'longest': {
      c.name: int(np.max(frame[c.name].list.len().to_numpy(), initial=0))
      for c in columns.sparse
      if c.bag
    },
  }
  if columns.time:
    time = frame['time']
    notes['time'] = [time.min(), time.max()]
    notes['sorted'] = time.is_sorted()
  return notes


def read_notes(units: Sequence[Parse]) -> list[dict[str, Any]]:
  """The notes on each piece, in order."""
  return [read_json(unit.output) for unit in units]


def spool_files(
  units: Sequence[Parse], notes: Sequence[dict[str, Any]]
) -> list[SpoolFile]:
  """The files of all pieces, in order."""
  return [
    SpoolFile(unit.output.with_name(part['path']), part['rows'])
    for unit, piece in zip(units, notes, strict=True)
    for part in piece['parts']
  ]


class Slice(NamedTuple):
  """Consecutive rows of a spool file that belong to one split.

  Attributes:
    path: path of the file.
    split: name of the split.
    start: number of the first row in the file.
    rows: number of rows.
    whole: whether the slice has all rows of the file.
  """

  path: Path
  split: str
  start: int
  rows: int
  whole: bool

  def read(self, columns: list[str] | None = None) -> pl.DataFrame:
    """The rows with all columns, or with some."""
    frame = pl.scan_ipc(self.path, glob=False).slice(self.start, self.rows)
    return (frame if columns is None else frame.select(columns)).collect()


def slices_of(
  files: Sequence[SpoolFile], splits: dict[str, range], most: int
) -> list[Slice]:
  """Cuts spool files into slices at the borders of splits.

  Args:
    files: files of the spool, in order.
    splits: rows of each split.
    most: maximum number of rows of a slice.
  """
  slices = []
  first = 0
  for part in files:
    for split, rows in splits.items():
      start = max(rows.start - first, 0)
      stop = min(rows.stop - first, part.rows)
      for begin in range(start, stop, most):
        count = min(most, stop - begin)
        whole = count == part.rows
        slices.append(Slice(part.path, split, begin, count, whole))
    first += part.rows
  return slices


def parse_again(
  stage: Stage,
  units: Sequence[Parse],
  notes: Sequence[dict[str, Any]],
  needed: Iterable[Slice],
) -> None:
  """Parses those pieces again whose files are needed, but missing or cut.

  Args:
    stage: runs units.
    units: units of all pieces.
    notes: notes on each piece.
    needed: slices that will be read.
  """
  paths = {part.path for part in needed}
  lost = {
    unit.output: unit
    for unit, piece in zip(units, notes, strict=True)
    for part in piece['parts']
    if (path := unit.output.with_name(part['path'])) in paths
    and not size_is(path, part['bytes'])
  }
  for mark in lost:
    mark.unlink(missing_ok=True)
  if lost:
    stage('parse', parse_piece, list(lost.values()))
