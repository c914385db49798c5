"""The definition of a line of a Criteo click log.

A line is `label, I1 ... I13, C1 ... C26` between tabs: a label 0 or 1,
integers (int32) and categories (1 to 8 hex digits, so 32 bits); an empty
integer or category is missing.
"""

import re

import polars as pl

from dlrm_jax.prepare.bad_rows import Fault

DENSE = tuple(f'I{i}' for i in range(1, 14))
SPARSE = tuple(f'C{i}' for i in range(1, 27))
COLUMNS = ('label', *DENSE, *SPARSE)

SCHEMA = {
  'label': pl.UInt8,
  **dict.fromkeys(DENSE, pl.Int32),
  **dict.fromkeys(SPARSE, pl.UInt32),
}
"""Columns of frames; a null is a missing value."""

_INTEGER = re.compile(r'-?[0-9]+', re.ASCII)
_HEX = re.compile(r'[0-9a-fA-F]{1,8}', re.ASCII)


def line_fault(line: bytes) -> Fault | None:
  """The first fault of a line, given without its end; None if it is good."""
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
    if field and (fault := check(name, field)):
      return fault
  return None


def _integer_fault(name: str, field: str) -> Fault | None:
  expected = 'an integer, or nothing'
  if not _INTEGER.fullmatch(field):
    return Fault('non-integer', name, _short(field), expected)
  # The length is checked first: Python cannot convert thousands of digits.
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
