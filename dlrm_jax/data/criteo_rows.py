"""Lines of a Criteo click log -> columns, strictly.

A line is `label, I1 ... I13, C1 ... C26` between tabs: a label 0 or 1,
integers (int32) and categories (1 to 8 hex digits, so 32 bits); an empty
integer or category is missing. `fault` says what is wrong with one line and
is the definition. `parse` is the fast path, Polars over a chunk of lines; in
any doubt it gives up and `sift` goes line by line.
"""

import re

import polars as pl

from dlrm_jax.data.bad_rows import Fault

DENSE = tuple(f'I{i}' for i in range(1, 14))
SPARSE = tuple(f'C{i}' for i in range(1, 27))
COLUMNS = ('label', *DENSE, *SPARSE)

_READ = {
  'label': pl.String,
  **dict.fromkeys(DENSE, pl.Int32),
  **dict.fromkeys(SPARSE, pl.String),
}
SCHEMA = {
  'label': pl.UInt8,
  **dict.fromkeys(DENSE, pl.Int32),
  **dict.fromkeys(SPARSE, pl.UInt32),
}
"""Of the frames made here; null is missing."""

_DIGITS = b'0123456789abcdefABCDEF-'
_ENDS = b'\t' * (len(COLUMNS) - 1) + b'\n'
_INTEGER = re.compile(r'-?[0-9]+', re.ASCII)
_HEX = re.compile(r'[0-9a-fA-F]{1,8}', re.ASCII)
_PLAIN = re.compile(
  rb'[01](?:\t(?:-?[0-9]{1,9})?){13}(?:\t(?:[0-9a-fA-F]{1,8})?){26}'
)
"""Matches most good lines, and none that is bad."""


def fault(line: bytes) -> Fault | None:
  """The first thing wrong with a line (without its end), or None."""
  try:
    text = line.decode('utf-8')
  except UnicodeDecodeError as error:
    bad = repr(line[error.start : error.start + 8])
    return Fault('invalid UTF-8', None, bad, 'UTF-8 text')
  if '\0' in text:
    return Fault('NUL byte', None, _short(text), 'text without NUL bytes')
  fields = text.split('\t')
  if len(fields) != len(COLUMNS):
    return Fault(
      'wrong number of columns',
      None,
      f'{len(fields)} columns',
      f'{len(COLUMNS)} between tabs (label, I1 ... I13, C1 ... C26)',
    )
  if fields[0] not in ('0', '1'):
    return Fault('bad label', 'label', _short(fields[0]), '0 or 1')
  for name, field in zip(COLUMNS[1:], fields[1:], strict=True):
    check = _integer_fault if name in DENSE else _category_fault
    if field and (found := check(name, field)):
      return found
  return None


def _integer_fault(name: str, field: str) -> Fault | None:
  expected = 'an integer, or nothing'
  if not _INTEGER.fullmatch(field):
    return Fault('non-integer', name, _short(field), expected)
  # The length first: Python refuses to convert thousands of digits.
  digits = field.lstrip('-').lstrip('0')
  if (
    len(digits) > 10
    or not -(2**31) <= int(digits or 0) * (-1 if field[0] == '-' else 1) < 2**31
  ):
    return Fault(
      'integer out of range', name, _short(field), f'{expected}, in 32 bits'
    )
  return None


def _category_fault(name: str, field: str) -> Fault | None:
  if _HEX.fullmatch(field):
    return None
  return Fault(
    'non-hex category', name, _short(field), '1 to 8 hex digits, or nothing'
  )


def _short(value: str, limit: int = 60) -> str:
  shown = repr(value[: limit + 1])
  return shown if len(shown) <= limit else shown[:limit] + '...'


def parse(chunk: bytes) -> pl.DataFrame | None:
  """Whole lines -> a frame of `SCHEMA`; None where any line may be bad."""
  if b'\r' in chunk:
    chunk = chunk.replace(b'\r\n', b'\n')
  # With tabs and line ends where they belong and no other byte than digits and
  # minus, most that Polars forgives cannot occur: short lines, signs, blanks,
  # decimal points, quotes, exponents, broken UTF-8.
  ends = chunk.translate(None, _DIGITS)
  lines, rest = divmod(len(ends), len(_ENDS))
  if rest or ends != _ENDS * lines:
    return None
  try:
    frame = pl.read_csv(
      chunk, separator='\t', has_header=False, quote_char=None, schema=_READ
    )
    if frame.height != lines or not _labels_and_lengths(frame):
      return None
    categories = pl.col(SPARSE).str.to_integer(base=16, dtype=pl.UInt32)
    return frame.with_columns(pl.col('label').cast(pl.UInt8), categories)
  except pl.exceptions.PolarsError:
    return None


def _labels_and_lengths(frame: pl.DataFrame) -> bool:
  good = pl.col('label').is_in(['0', '1']).fill_null(False).all()
  longest = pl.max_horizontal(pl.col(SPARSE).str.len_bytes().max())
  good, longest = frame.select(good, longest.fill_null(0).alias('n')).row(0)
  return good and longest <= 8


def sift(chunk: bytes) -> tuple[pl.DataFrame, list[tuple[int, Fault]]]:
  """Whole lines -> the good ones, and the bad ones by number (from 0)."""
  good: list[bytes] = []
  bad: list[tuple[int, Fault]] = []
  for number, line in enumerate(chunk.split(b'\n')[:-1]):
    line = line.removesuffix(b'\r')
    if _PLAIN.fullmatch(line):
      good.append(line)
    elif found := fault(line):
      bad.append((number, found))
    else:
      good.append(line)
  if not good:
    return pl.DataFrame(schema=SCHEMA), bad
  frame = parse(b'\n'.join([*good, b'']))
  if frame is None:
    raise AssertionError('the fast path refuses rows that are good')
  return frame, bad
