"""The last check of parsed rows: ids must have rows, numbers logarithms.

A reader checks what its format demands. This check is the same for all
formats; the stages after it can encode every row.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.data.schema import Schema
from dlrm_jax.prepare.bad_rows import BadRows, Fault, shorten
from dlrm_jax.prepare.readers.reader import BAD, NUMBER, Piece, Reader
from dlrm_jax.vocabulary import keys
from dlrm_jax.vocabulary.columns import Columns, Dense, Sparse
from dlrm_jax.vocabulary.policy import STOP, UNKNOWN

_LEAST = {'log3': -3}
"""Values of a dense column must be above this number, by its transform."""

_SURELY_NEGATIVE = -(2**32)
"""Ids below may stand for ids of 2^63 or more (see `keys`)."""


class Fit(NamedTuple):
  """Conditions on rows.

  Attributes:
    columns: columns of the log.
    longest: maximum number of ids in a bag, by feature; more are cut off.
    closed: functions values -> bool[n], true for values without a row, by
      column: those whose vocabulary has no row for unknown values.
    out_of_range: 'stop': a value without a row makes its row a bad row;
      'unknown': it gets row 0.
  """

  columns: Columns
  longest: Mapping[str, int] = {}
  closed: Mapping[str, Callable[[pl.Series], np.ndarray]] = {}
  out_of_range: str = STOP


def fit_of(
  columns: Columns,
  known: Schema | None,
  closed: Mapping[str, Callable[[pl.Series], np.ndarray]],
  out_of_range: str,
) -> Fit:
  """The conditions on the rows of a set.

  Args:
    columns: columns of the log.
    known: columns of the set whose vocabularies are used, which limits the
      length of bags; None: vocabularies are counted in this log.
    closed: as in `Fit`.
    out_of_range: as in `Fit`.
  """
  bags = {column.name for column in columns.sparse if column.bag}
  most = {
    column.name: column.hotness
    for column in (known.sparse if known else ())
    if column.name in bags
  }
  return Fit(columns, most, closed, out_of_range)


class _Check(NamedTuple):
  """The result of a check of one column.

  Attributes:
    column: name of the column.
    wrong: which rows fail, bool[n].
    kind: kind of fault, for the count of bad rows.
    expected: description of a good value.
  """

  column: str
  wrong: pl.Series
  kind: str
  expected: str


def fitting(
  reader: Reader,
  piece: Piece,
  bad: BadRows,
  digest: Callable[[bytes], object],
  fit: Fit,
  *,
  numbered: bool = False,
) -> Iterator[pl.DataFrame]:
  """The rows of a piece that fit, in their order, without `NUMBER`.

  Where a frame marks its bad rows, those that do not fit are marked, too.

  Args:
    reader: reader of the format.
    piece: the piece to read.
    bad: counter of bad rows.
    digest: as in `Reader.read`.
    fit: conditions on the rows.
    numbered: whether frames keep `NUMBER`.

  Raises:
    InputError: a row is bad and `bad` does not skip, or labels are both -1 and
      0.
  """
  first, unit = 0, ''
  for frame in reader.read(piece, bad, digest):
    frame = _with_row_0(frame, fit, bad)
    checks = [check for check in _checks(frame, fit) if check.wrong.any()]
    if checks:
      if not unit:  # Only once: counting lines takes time.
        first, unit = reader.place(piece)
      wrong = np.any([check.wrong.to_numpy() for check in checks], axis=0)
      if BAD in frame.columns:
        wrong &= ~frame[BAD].to_numpy()  # these are reported already
      for row in np.flatnonzero(wrong).tolist():
        number = first + frame[NUMBER][row]
        bad.add(piece.path, number, _fault(frame, checks, row), unit)
      if BAD in frame.columns:
        frame = frame.with_columns(pl.col(BAD) | pl.Series(wrong))
      else:
        frame = frame.filter(~pl.Series(wrong))
    frame = _cut(frame, fit.longest, bad)
    names = zip(fit.columns.labels, fit.columns.targets, strict=True)
    for name, target in names:
      if frame[name].dtype == pl.Int8:
        _mend_labels(frame, name, piece.path, target.column, bad)
    if frame.height:
      if not numbered:
        frame.drop_in_place(NUMBER)
      yield frame


def _mend_labels(
  frame: pl.DataFrame, name: str, path: str, column: str, bad: BadRows
) -> None:
  """Labels -1 and 1 -> 0 and 1; labels must not be both -1 and 0.

  Args:
    frame: the frame; its column of labels is replaced.
    name: name of that column.
    path: the file.
    column: name of the column in the file; '': the file does not name it.
    bad: counter of bad rows, which remembers -1 and 0.
  """
  where = f'{path}, column {column}' if column else path
  labels = frame[name]
  bad.meet({column: {f'{n}': where for n in (-1, 0) if (labels == n).any()}})
  place = frame.get_column_index(name)
  frame.replace_column(place, (labels == 1).cast(pl.UInt8))


def _fault(frame: pl.DataFrame, checks: list[_Check], row: int) -> Fault:
  """The first fault of a row."""
  check = next(check for check in checks if check.wrong[row])
  value = frame[check.column][row]
  hexadecimal = frame[check.column].dtype == pl.UInt32
  shown = f'{value or 0:08x}' if hexadecimal else shorten(_as_written(value))
  return Fault(check.kind, check.column, shown, check.expected)


def _as_written(value: Any) -> Any:
  """An id as the file may have it: ids of 2^63 or more are stored negative."""
  if isinstance(value, pl.Series):
    return [_as_written(x) for x in value]
  if isinstance(value, int) and value < _SURELY_NEGATIVE:
    return f'{keys.of_int64(value)} or {value}'
  return value


def _checks(frame: pl.DataFrame, fit: Fit) -> Iterator[_Check]:
  for column in fit.columns.dense:
    if column.transform in _LEAST:
      yield _logarithm(frame[column.name], column)
  if fit.out_of_range == UNKNOWN:
    return
  for column in fit.columns.sparse:
    if column.ids == 'rows':
      wrong = _out_of_range(frame[column.name], column)
      expected = f'0 ... {column.rows - 1:,}, rows of its table'
      yield _Check(column.name, wrong, 'id out of range', expected)
  for name, lacks in fit.closed.items():
    expected = (
      'an id of the vocabulary, which has no row for others; prepare all files '
      'together'
    )
    yield _Check(name, pl.Series(lacks(frame[name])), 'unknown id', expected)


def _logarithm(values: pl.Series, column: Dense) -> _Check:
  least = _LEAST[column.transform]
  return _Check(
    column.name,
    (values <= least).fill_null(False),
    f'no logarithm of x + {-least}',
    f'a number above {least} (other transforms and modes have no such bound)',
  )


def _without_row(column: Sparse, value: pl.Expr) -> pl.Expr:
  return ((value < 0) | (value >= column.rows)).fill_null(False)


def _out_of_range(values: pl.Series, column: Sparse) -> pl.Series:
  """Which rows have an id that is no row of the table, bool[n]."""
  value = pl.col(column.name)
  wrong = _without_row(column, value)
  if column.bag:
    wrong = value.list.eval(_without_row(column, pl.element())).list.any()
  return values.to_frame().select(wrong.fill_null(False)).to_series()


def _with_row_0(frame: pl.DataFrame, fit: Fit, bad: BadRows) -> pl.DataFrame:
  """Counts ids without a row, and replaces them by 0, if `fit` allows them."""
  if fit.out_of_range != UNKNOWN:
    return frame
  # Values of a vocabulary are only counted: coders give them row 0.
  for name, lacks in fit.closed.items():
    bad.change(_became_unknown(name), int(lacks(frame[name]).sum()))
  for column in fit.columns.sparse:
    if column.ids != 'rows':
      continue
    value = pl.element() if column.bag else pl.col(column.name)
    wrong = _without_row(column, value)
    mended = pl.when(wrong).then(0).otherwise(value)
    if column.bag:
      name = pl.col(column.name)
      counts = name.list.eval(wrong.cast(pl.UInt32)).list.sum()
      mended = name.list.eval(mended)
    else:
      counts = wrong.cast(pl.UInt32)
    if count := frame.select(counts.sum()).item():
      bad.change(_became_unknown(column.name), count)
      dtype = frame[column.name].dtype
      frame = frame.with_columns(mended.cast(dtype).alias(column.name))
  return frame


def _became_unknown(name: str) -> str:
  return f'id of {name} out of range, which became row 0'


def _cut(
  frame: pl.DataFrame, longest: Mapping[str, int], bad: BadRows
) -> pl.DataFrame:
  """Cuts bags, and their weights, to their first ids."""
  for name, most in longest.items():
    count = int((frame[name].list.len() > most).sum())
    if not count:
      continue
    names = [name, f'{name}.weights']
    frame = frame.with_columns(
      pl.col(n).list.head(most) for n in names if n in frame.columns
    )
    bad.change(
      f'bag of {name} cut to its first {most} ids, the most in training',
      count,
    )
  return frame
