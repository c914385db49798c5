"""Files of implicit feedback: a line `user item rating time`, tab-separated.

There is no header. Users and items are whole numbers. What the rating is does
not matter: that there is one makes the item a positive of the user. Rating and
time may be left out, in all lines alike; without times the order of the file
counts.
"""

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl

from dlrm_jax.data.lists import ITEM, USER
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows, Fault, shorten
from dlrm_jax.prepare.readers.csv_lines import Csv
from dlrm_jax.prepare.readers.lines import Lines, cut, first_line

EXPECTED = 'lines of user, item, rating and time between tabs'

LINE = 'line'
"""Name of the column of line numbers, from 1."""

_NAMES = (USER, ITEM, 'rating', 'time')


def _ignore(data: bytes) -> None:
  del data


def read_interactions(
  path: str, bad: BadRows, digest: Callable[[bytes], object] = _ignore
) -> Iterator[pl.DataFrame]:
  """Reads a file in frames of some 100,000 lines.

  Args:
    path: the file, plain or packed.
    bad: receives the bad lines.
    digest: called with the content of the file, in order.

  Yields:
    Frames of user i64, item i64, time f64 (0 where the file has none) and
    line u32.

  Raises:
    InputError: the file cannot be read, or a line is bad and `bad` does not
      skip bad lines.
  """
  count = len(first_line(path, EXPECTED).split(b'\t'))
  if not 2 <= count <= len(_NAMES):
    raise InputError(
      f'{path}, line 1: {count} columns between tabs; expected user, item, '
      f'rating and time (or the first two or three of them)'
    )
  csv = Csv(_NAMES[:count], '\t', quoted=False, multiline=False)
  (piece,) = cut(path, EXPECTED, whole=True)
  lines = Lines(piece, bad)
  for text in lines.chunks(digest):
    frame, numbers, faults = csv.parse(text, csv.names)
    for offset, fault in faults:
      lines.add(offset, fault)
    if numbers is None:
      numbers = np.arange(frame.height)
    numbers = np.asarray(numbers, np.int64)
    good, good_numbers = _numbers(frame, numbers, lines)
    yield good.with_columns(
      pl.Series(LINE, good_numbers + lines.line + 1, pl.UInt32)
    )
    lines.line += text.count(b'\n')


def _numbers(
  frame: pl.DataFrame, offsets: np.ndarray, lines: Lines
) -> tuple[pl.DataFrame, np.ndarray]:
  """Texts -> numbers; lines with other texts are reported and left out.

  Args:
    frame: columns of text.
    offsets: number of each row's line in the chunk, i64[n].
    lines: receives the bad lines.
  """
  numbers = frame.select(
    pl.col(USER, ITEM).cast(pl.Int64, strict=False),
    pl.col('time').cast(pl.Float64, strict=False)
    if 'time' in frame.columns
    else pl.lit(0.0).alias('time'),
  ).with_columns(
    time=pl.when(pl.col('time').is_finite()).then('time'),
  )
  if not sum(numbers.null_count().row(0)):
    return numbers, offsets
  faulty = numbers.select(pl.any_horizontal(pl.all().is_null()))
  for row in np.flatnonzero(faulty.to_series().to_numpy()):
    name = next(n for n in numbers.columns if numbers[n][int(row)] is None)
    kind, expected = (
      ('bad time', 'a number of seconds, or a rank')
      if name == 'time'
      else ('bad id', 'a whole number, -2^63 ... 2^63 - 1')
    )
    value = shorten(frame[name][int(row)])
    lines.add(int(offsets[row]), Fault(kind, name, value, expected))
  keep = ~faulty.to_series()
  return numbers.filter(keep), offsets[keep.to_numpy()]
