"""Lines of a Criteo click log -> columns: a fast path and a strict one.

`parse_lines` parses thousands of lines at once, and gives up if one of them
may be bad. Then `sift_lines` separates good lines from bad ones.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.prepare.bad_rows import Fault
from dlrm_jax.prepare.criteo.criteo_rows import (
  COLUMNS,
  DENSE,
  SCHEMA,
  line_fault,
)
from dlrm_jax.prepare.criteo.digits import PADDING, hexadecimals, integers

_TEXT_BYTES = 1 << 19
"""Bytes of lines that are parsed at once; their columns fit in the cache."""

_ENDS = b'\t' * (len(COLUMNS) - 1) + b'\n'
_PLAIN = re.compile(
  rb'[01](?:\t(?:-?[0-9]{1,9})?){13}(?:\t(?:[0-9a-fA-F]{1,8})?){26}'
)
"""Matches most good lines and no bad ones."""


class _Rows(NamedTuple):
  """Parsed lines: `n` rows.

  Attributes:
    labels: u8[n].
    dense: i32[13, n].
    sparse: u32[26, n].
    present: bool[39, n], of dense and sparse.
  """

  labels: np.ndarray
  dense: np.ndarray
  sparse: np.ndarray
  present: np.ndarray


def _texts(chunk: bytes) -> Iterator[bytes]:
  """Cuts a chunk of lines into texts of some thousand lines."""
  start = 0
  while start < len(chunk):
    least = min(start + _TEXT_BYTES, len(chunk))
    stop = chunk.find(b'\n', least - 1) + 1
    if not stop:
      raise ValueError('the last line has no end')
    yield chunk[start:stop]
    start = stop


def _fields(text: np.ndarray, size: int) -> tuple[np.ndarray, ...] | None:
  """Starts and lengths of fields, i64[40, n]; None if a tab is misplaced."""
  # Tabs, line ends, and other control characters, which are not allowed.
  ends = np.flatnonzero(text[:size] <= ord('\r'))
  lines, rest = divmod(len(ends), len(COLUMNS))
  if rest or text[ends].tobytes() != _ENDS * lines:
    return None
  # A field begins after the end of the field before it, row by row.
  borders = np.empty((len(COLUMNS) + 1, lines), np.int64)
  borders[1:] = ends.reshape(lines, len(COLUMNS)).T
  borders[0, 0] = -1
  borders[0, 1:] = borders[-1, :-1]
  starts = borders[:-1] + 1
  return starts, borders[1:] - starts


def _parsed(lines: bytes) -> _Rows | None:
  padded = lines + bytes(PADDING + -len(lines) % 8)
  text = np.frombuffer(padded, np.uint8)
  fields = _fields(text, len(lines))
  if fields is None:
    return None
  starts, lengths = fields
  labels = text[starts[0]] - np.uint8(ord('0'))
  if (lengths[0] != 1).any() or (labels > 1).any():
    return None
  cut = 1 + len(DENSE)
  dense = integers(text, starts[1:cut], lengths[1:cut])
  sparse = hexadecimals(text, starts[cut:], lengths[cut:])
  if dense.bad.any() or sparse.bad.any():
    return None
  return _Rows(
    labels,
    dense.values,
    sparse.values,
    lengths[1:] != 0,
  )


def _frame(parts: list[_Rows]) -> pl.DataFrame:
  rows = _Rows(*(np.concatenate(x, axis=-1) for x in zip(*parts, strict=True)))
  columns = [pl.Series('label', rows.labels)]
  nulls = {kind: pl.Series([None], dtype=kind) for kind in SCHEMA.values()}
  values = [*rows.dense, *rows.sparse]
  for name, x, present in zip(COLUMNS[1:], values, rows.present, strict=True):
    series = pl.Series(name, x)
    columns.append(series.zip_with(pl.Series(present), nulls[SCHEMA[name]]))
  return pl.DataFrame(columns)


def parse_lines(chunk: bytes) -> pl.DataFrame | None:
  """Whole lines -> a frame of `SCHEMA`; None if a line may be bad."""
  if b'\r' in chunk:
    chunk = chunk.replace(b'\r\n', b'\n')
  parts = []
  for lines in _texts(chunk):
    rows = _parsed(lines)
    if rows is None:
      return None
    parts.append(rows)
  return _frame(parts) if parts else pl.DataFrame(schema=SCHEMA)


def _sifted(lines: bytes) -> tuple[pl.DataFrame, list[tuple[int, Fault]]]:
  """As `sift_lines`, line by line."""
  good: list[bytes] = []
  bad: list[tuple[int, Fault]] = []
  for number, line in enumerate(lines.split(b'\n')[:-1]):
    line = line.removesuffix(b'\r')
    if not _PLAIN.fullmatch(line) and (fault := line_fault(line)):
      bad.append((number, fault))
    else:
      good.append(line)
  frame = parse_lines(b'\n'.join([*good, b'']))
  if frame is None:
    raise AssertionError('the fast path refuses rows that are good')
  return frame, bad


def sift_lines(chunk: bytes) -> tuple[pl.DataFrame, list[tuple[int, Fault]]]:
  """Whole lines -> a frame of the good ones, and the faults of the bad ones.

  Faults come with the numbers of their lines, from 0.
  """
  frames: list[pl.DataFrame] = [pl.DataFrame(schema=SCHEMA)]
  bad: list[tuple[int, Fault]] = []
  line = 0
  for lines in _texts(chunk):
    frame, faults = parse_lines(lines), []
    if frame is None:
      frame, faults = _sifted(lines)
    bad.extend((line + number, fault) for number, fault in faults)
    line += frame.height + len(faults)
    frames.append(frame)
  return pl.concat(frames), bad
