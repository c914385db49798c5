"""Files of rows to score: the reader of each, and its rows in order.

A file may be of the kind that the model was trained on; or, whatever that was,
Parquet or text with the names of the model's columns in its first line. Labels
are not needed.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.batch import Inputs
from dlrm_jax.data.lists import IMPLICIT, ITEM, USER
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows, Fault
from dlrm_jax.prepare.criteo.criteo_reader import (
  CriteoReader,
  UnlabelledCriteoReader,
  has_labels,
)
from dlrm_jax.prepare.inputs import expanded
from dlrm_jax.prepare.known_ids import reader_of_format
from dlrm_jax.prepare.readers.archives import DamagedError, file_format
from dlrm_jax.prepare.readers.csv_lines import Csv
from dlrm_jax.prepare.readers.csv_reader import CsvReader
from dlrm_jax.prepare.readers.formats import files_of
from dlrm_jax.prepare.readers.lines import first_line
from dlrm_jax.prepare.readers.parquet_reader import ParquetReader
from dlrm_jax.prepare.readers.reader import Piece, Reader
from dlrm_jax.prepare.readers.text_files import check_readable
from dlrm_jax.prepare.values.checks import meant
from dlrm_jax.prepare.values.rules import KEPT
from dlrm_jax.scoring.intake import EncodedRows, Intake
from dlrm_jax.vocabulary.columns import Columns
from dlrm_jax.vocabulary.keys import in_hex

_SEPARATORS = ',\t;'
_TEXT = 'text with a row on each line'
_BINARY = ('fb_npz', 'fb_bin', 'torchrec_npy', 'movielens')
_KNOWN = 'Parquet, or text with a row on each line'
_INTERACTIONS = (USER, ITEM, 'rating', 'time')


class Marked(BadRows):
  """A counter of bad rows that notes where they are.

  Attributes:
    numbers: numbers, from 1, of the bad rows of the piece that is read.
    names: what messages call a file, where that is not its path.
    before: number of lines before the first one of such a file.
  """

  def __init__(self, on_bad_row: str) -> None:
    super().__init__(on_bad_row)
    self.numbers: list[int] = []
    self.names: Mapping[str, str] = {}
    self.before = 0

  def add(
    self, path: str, number: int, fault: Fault, unit: str = 'line'
  ) -> None:
    """Counts a bad row; raises where bad rows are not skipped."""
    shown = number + self.before
    super().add(self.names.get(path, path), shown, fault, unit)
    self.numbers.append(number)

  def lose(
    self, path: str, number: int, kind: str, damage: DamagedError
  ) -> None:
    """Raises an error, as the rest of the file cannot keep its places."""
    raise InputError(
      f'{self.names.get(path, path)}, line {number + self.before:,}: damaged '
      f'{kind}: {damage}; expected a whole file, as each of its rows gets a '
      f'prediction: copy it again'
    )


@dataclasses.dataclass(frozen=True)
class KeepingReader:
  """Another reader, whose frames also keep some of their columns as they are.

  Attributes:
    reader: the other reader.
    kept: names of columns of its frames.
  """

  reader: Reader
  kept: tuple[str, ...]

  @property
  def columns(self) -> Columns:
    """Columns of the frames."""
    return self.reader.columns

  def pieces(self, path: str) -> list[Piece]:
    """Those of the other reader."""
    return self.reader.pieces(path)

  def about(self, path: str) -> int:
    """Number of rows of a file, as the other reader says."""
    return self.reader.about(path)

  def place(self, piece: Piece) -> tuple[int, str]:
    """Place of a piece, as the other reader says."""
    return self.reader.place(piece)

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The frames of the other reader, with columns to keep."""
    for frame in self.reader.read(piece, bad, digest):
      yield frame.with_columns(
        _as_written(name, frame[name].dtype).alias(f'{KEPT}{name}')
        for name in self.kept
      )


def _as_written(name: str, kind: pl.DataType) -> pl.Expr:
  """A column of a frame as its file may have it: 32-bit keys are in hex."""
  return in_hex(pl.col(name)) if kind == pl.UInt32 else pl.col(name)


def paths_of(intake: Intake, names: Sequence[str]) -> list[str]:
  """Names of files, folders of them and globs -> files, in order."""
  kind = '' if intake.format is None else intake.format['format']
  return files_of(kind, names) if kind else expanded(names)


def reader_for(intake: Intake, path: str, kept: tuple[str, ...]) -> Reader:
  """The reader of a file.

  Args:
    intake: the columns that the model reads.
    path: the file.
    kept: columns of the file to keep beside.

  Raises:
    InputError: the file cannot be read, or lacks a column.
  """
  schema = dataclasses.replace(intake.schema, kept=kept)
  log = intake.format or {'format': ''}
  if log['format'] == 'tfds':
    return _of_kind(log, path, kept)
  check_readable(path, _KNOWN)
  if file_format(path) == 'Parquet':
    return ParquetReader(schema)
  if log['format'] == 'csv':
    own = reader_of_format(log)
    assert isinstance(own, CsvReader)
    return dataclasses.replace(own, schema=schema)
  line = _first_line(path, of_text=log['format'] not in _BINARY)
  if separator := _separator(line, schema.names):
    return CsvReader(schema, separator)
  if log['format'] == IMPLICIT:
    count = line.count('\t') + 1
    return CsvReader(schema, '\t', _INTERACTIONS[:count], quoted=False)
  own_text = not log['format'] or log['format'] == 'parquet'
  if own_text or (log['format'] == 'criteo' and '\t' not in line):
    lines = '' if own_text else 'lines of a Criteo log, '
    raise InputError(
      f'{path}: expected {lines}Parquet, or text whose first line names the '
      f'columns {", ".join(schema.names)}'
    )
  return _of_kind(log, path, kept)


def _of_kind(
  log: Mapping[str, Any], path: str, kept: tuple[str, ...]
) -> Reader:
  """The reader of the kind of files that the model was trained on."""
  reader, labels = reader_of_format(log), True
  if isinstance(reader, CriteoReader) and not has_labels(path):
    reader = UnlabelledCriteoReader(**dataclasses.asdict(reader))
    labels = False
  if not kept:
    return reader
  columns = reader.columns
  known = list(columns.labels) if labels else []
  known += [column.name for column in (*columns.dense, *columns.sparse)]
  for name in kept:
    if name not in known:
      raise InputError(
        f'--keep={",".join(kept)}: {path} has no column {name!r}'
        f'{meant(name, known)}; expected of {", ".join(known)}'
      )
  return KeepingReader(reader, kept)


def _first_line(path: str, *, of_text: bool) -> str:
  """The first line of a file; '' where it is not text, and may be another."""
  try:
    return first_line(path, _TEXT).decode('utf-8', 'replace')
  except InputError:
    if of_text:
      raise
    return ''


def _separator(line: str, names: Sequence[str]) -> str:
  """What is between the names of columns in a line; '' if it has none."""
  for separator in _SEPARATORS:
    fields = Csv(('',), separator, True, False).fields(line)
    if len(fields) > 1 and set(names) & set(fields):
      return separator
  return ''


class ScorableRows(NamedTuple):
  """Consecutive rows of a file, bad ones among them.

  Attributes:
    inputs: inputs of the good rows; None: there are none.
    good: which of the n rows are good, bool[n].
    kept: the n rows of the columns to keep, null where they could not be
      read; None: there are none, or none of these rows could be read.
  """

  inputs: Inputs | None
  good: np.ndarray
  kept: pl.DataFrame | None


def rows_of_file(
  intake: Intake, reader: Reader, path: str, bad: Marked
) -> Iterator[ScorableRows]:
  """All rows of a file, in order; bad ones have no inputs.

  Raises:
    InputError: a row is bad and bad rows are not skipped, or the file cannot
      be read.
  """
  for piece in reader.pieces(path):
    yield from _rows_of_piece(intake, reader, piece, bad)


def _rows_of_piece(
  intake: Intake, reader: Reader, piece: Piece, bad: Marked
) -> Iterator[ScorableRows]:
  bad.numbers, first = [], 0
  for encoded in intake.read(reader, piece, bad):
    lost = np.empty(0, np.int64)
    if bad.numbers:
      first = first or reader.place(piece)[0]
      numbers = np.unique(bad.numbers) - first
      before = numbers < encoded.numbers[-1]
      lost = np.setdiff1d(numbers[before], encoded.numbers)
      later = numbers > encoded.numbers[-1]
      bad.numbers = (numbers[later] + first).tolist()
    yield _with_lost(encoded, lost)
  if bad.numbers:  # behind the last good row
    good = np.zeros(len(set(bad.numbers)), bool)
    yield ScorableRows(None, good, None)


def _with_lost(encoded: EncodedRows, lost: np.ndarray) -> ScorableRows:
  """Adds bad rows that no frame has, by their numbers, i64[m]."""
  inputs = encoded.inputs if encoded.good.any() else None
  if not len(lost):
    return ScorableRows(inputs, encoded.good, encoded.kept)
  order = np.argsort(np.concatenate([encoded.numbers, lost]))
  good = np.concatenate([encoded.good, np.zeros(len(lost), bool)])[order]
  kept = encoded.kept
  if kept is not None:
    kept = pl.concat([kept, kept.clear(len(lost))])[order]
  return ScorableRows(inputs, good, kept)
