"""Stage 1 of preparing: raw pieces -> columnar files, the spool.

A part is a file of some 2^18 rows as the reader gave them. What was met on
the way (rows, clicks, bad rows, checksum) lies beside a piece's parts.
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
from dlrm_jax.prepare.units import Stage, marked, size_is, write_mark
from dlrm_jax.vocabulary.columns import Columns


class Parse(NamedTuple):
  """A unit: one piece of one input file.

  Attributes:
    reader: of the format.
    piece: what to read.
    on_bad_row: 'stop' or 'skip'.
    fit: what rows must be.
    output: what was met; parts lie beside it.
  """

  reader: Reader
  piece: Piece
  on_bad_row: str
  fit: Fit
  output: Path

  def sound(self) -> bool:
    """Whether it says what was met; of its parts see `restore`."""
    return marked(self.output) is not None


class Part(NamedTuple):
  """A file of the spool.

  Attributes:
    path: the file.
    rows: in it.
  """

  path: Path
  rows: int


def parse(unit: Parse) -> None:
  """Reads a piece; writes its parts, then what was met."""
  bad = BadRows(unit.on_bad_row)
  digest = hashlib.sha256()
  parts = []
  frames = fitting(unit.reader, unit.piece, bad, digest.update, unit.fit)
  for number, frame in enumerate(_gathered(frames)):
    path = unit.output.with_name(f'{unit.output.stem}-{number:04}.arrow')
    with replacing(path, synced=False) as work:
      frame.write_ipc(work)
    file = {'path': path.name, 'bytes': path.stat().st_size}
    parts.append(file | _described(frame, unit.reader.columns))
  write_mark(
    unit.output,
    {'digest': digest.hexdigest(), 'bad': bad.to_json(), 'parts': parts},
  )


def _gathered(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
  """Few large frames of many small ones."""
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


def _described(frame: pl.DataFrame, columns: Columns) -> dict[str, Any]:
  """What later stages must know of a part before they read it."""
  found: dict[str, Any] = {
    'rows': frame.height,
    'clicks': int(frame['label'].sum()),
    'types': {c.name: str(frame[c.name].dtype) for c in columns.sparse},
    'longest': {
      c.name: int(np.max(frame[c.name].list.len().to_numpy(), initial=0))
      for c in columns.sparse
      if c.bag
    },
  }
  if columns.time:
    time = frame['time']
    found['time'] = [time.min(), time.max()]
    found['sorted'] = time.is_sorted()
  return found


def met(units: Sequence[Parse]) -> list[dict[str, Any]]:
  """What was met in each piece, in order."""
  return [read_json(unit.output) for unit in units]


def parts_of(
  units: Sequence[Parse], found: Sequence[dict[str, Any]]
) -> list[Part]:
  """The parts of all pieces, in order."""
  return [
    Part(unit.output.with_name(part['path']), part['rows'])
    for unit, piece in zip(units, found, strict=True)
    for part in piece['parts']
  ]


class Slice(NamedTuple):
  """Consecutive rows of a part that belong to one split.

  Attributes:
    path: of the part.
    split: its name.
    start: the first row.
    rows: how many.
    whole: whether these are all rows of the part.
  """

  path: Path
  split: str
  start: int
  rows: int
  whole: bool

  def read(self, columns: list[str] | None = None) -> pl.DataFrame:
    """Its rows, of all columns or some."""
    frame = pl.scan_ipc(self.path).slice(self.start, self.rows)
    return (frame if columns is None else frame.select(columns)).collect()


def slices_of(
  parts: Sequence[Part], splits: dict[str, range], most: int
) -> list[Slice]:
  """Cuts parts at the borders of splits, and in slices of `most` rows."""
  found = []
  first = 0
  for part in parts:
    for split, rows in splits.items():
      start = max(rows.start - first, 0)
      stop = min(rows.stop - first, part.rows)
      for begin in range(start, stop, most):
        count = min(most, stop - begin)
        whole = count == part.rows
        found.append(Slice(part.path, split, begin, count, whole))
    first += part.rows
  return found


def restore(
  stage: Stage,
  units: Sequence[Parse],
  found: Sequence[dict[str, Any]],
  needed: Iterable[Slice],
) -> None:
  """Parses pieces again of which a part that is needed is lost or cut.

  Args:
    stage: runs units.
    units: of all pieces.
    found: what was met in each.
    needed: slices of the parts that will be read.
  """
  paths = {part.path for part in needed}
  lost = {
    unit.output: unit
    for unit, piece in zip(units, found, strict=True)
    for part in piece['parts']
    if (path := unit.output.with_name(part['path'])) in paths
    and not size_is(path, part['bytes'])
  }
  for mark in lost:
    mark.unlink(missing_ok=True)
  if lost:
    stage('parse', parse, list(lost.values()))
