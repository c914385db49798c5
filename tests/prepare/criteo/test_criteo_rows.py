"""The fast parser takes exactly what a plain Python parser takes."""

import re
import string

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrm_jax.prepare.criteo import text as criteo_parse
from dlrm_jax.prepare.criteo.criteo_rows import (
  COLUMNS,
  DENSE,
  SCHEMA,
  SPARSE,
  line_fault,
)
from dlrm_jax.prepare.criteo.text import parse_lines, sift_lines

GOOD = ['1', *['5'] * 13, *['0a1b2c3d'] * 26]


def line(**changes):
  """A good line but for these columns."""
  fields = [changes.get(c, x) for c, x in zip(COLUMNS, GOOD, strict=True)]
  return '\t'.join(fields).encode('utf-8', 'surrogateescape')


def plain(text):
  """The same rules in the plainest Python: a row, or None where it is bad."""
  try:
    fields = text.removesuffix(b'\r').decode('utf-8').split('\t')
  except UnicodeDecodeError:
    return None
  if len(fields) != 40 or fields[0] not in ('0', '1'):
    return None
  row = [int(fields[0])]
  for field in fields[1:14]:
    digits = field.removeprefix('-')
    if field and not (digits and set(digits) <= set(string.digits)):
      return None
    if field and not -(2**31) <= int(field) <= 2**31 - 1:
      return None
    row.append(int(field) if field else None)
  for field in fields[14:]:
    if len(field) > 8 or not set(field) <= set(string.hexdigits):
      return None
    row.append(int(field, 16) if field else None)
  return tuple(row)


integers = st.integers(-(2**31), 2**31 - 1).map(str) | st.sampled_from(
  ['', '', '0', '-0', '007', '-00012', '2147483647', '-2147483648', '0' * 40]
)
categories = st.text('0123456789abcdefABCDEF', max_size=8)
good_fields = st.tuples(
  st.sampled_from('01'), *[integers] * 13, *[categories] * 26
).map(list)
ODD = """+5| 5|5 |5.0|1e3|--5|5-|-|2147483648|-2147483649|1e|NaN|null|0x1f|g
000000001|fffffffff|-1|"5"|'5|²|٣|\0|\ufeff0|01|00|2|\r"""
odd = st.sampled_from(re.split('[|\n]', ODD)) | st.text(max_size=10)


@st.composite
def lines(draw):
  fields = draw(good_fields)
  how = draw(st.sampled_from(['good', 'good', 'odd', 'columns', 'bytes']))
  if how == 'odd':
    fields[draw(st.integers(0, 39))] = draw(odd)
  elif how == 'columns':
    fields = fields[: draw(st.integers(0, 39))] or [*fields, '1']
  text = '\t'.join(fields).encode().replace(b'\n', b'')
  if how == 'bytes':
    at = draw(st.integers(0, len(text)))
    text = text[:at] + draw(st.binary(max_size=3)) + text[at:]
    text = text.replace(b'\n', b'')
  return text + draw(st.sampled_from([b'', b'', b'\r']))


@settings(max_examples=200, deadline=None)
@given(st.lists(lines(), min_size=1, max_size=6))
def test_the_fast_parser_agrees_with_a_plain_one(texts):
  rows = [plain(text) for text in texts]
  chunk = b''.join(text + b'\n' for text in texts)
  fast = parse_lines(chunk)
  if fast is not None:
    assert fast.schema == SCHEMA
    assert fast.rows() == rows
  frame, bad = sift_lines(chunk)
  assert frame.rows() == [row for row in rows if row is not None]
  assert [n for n, _ in bad] == [n for n, row in enumerate(rows) if not row]
  assert frame.schema == SCHEMA


@settings(max_examples=50, deadline=None)
@given(st.lists(good_fields, min_size=1, max_size=4))
def test_good_lines_never_need_the_slow_path(rows):
  chunk = b''.join('\t'.join(row).encode() + b'\n' for row in rows)
  assert parse_lines(chunk) is not None


def test_columns_and_missing_values():
  frame = parse_lines(line(label='0', I1='-3', I2='', C1='ff', C2='') + b'\n')
  row = frame.row(0, named=True)
  assert (row['label'], row['I1'], row['I2'], row['I3']) == (0, -3, None, 5)
  assert (row['C1'], row['C2'], row['C3']) == (255, None, 0x0A1B2C3D)
  assert frame.columns == ['label', *DENSE, *SPARSE]


def test_windows_line_ends_are_taken():
  frame = parse_lines((line() + b'\r\n') * 3)
  assert frame.height == 3


@pytest.mark.parametrize(
  ('text', 'kind', 'column', 'value'),
  [
    (line(label='2'), 'bad label', 'label', "'2'"),
    (line(label=''), 'bad label', 'label', "''"),
    (line(label='01'), 'bad label', 'label', "'01'"),
    (line(I3='+5'), 'non-integer', 'I3', "'+5'"),
    (line(I3=' 5'), 'non-integer', 'I3', "' 5'"),
    (line(I3='5.0'), 'non-integer', 'I3', "'5.0'"),
    (line(I3='1e3'), 'non-integer', 'I3', "'1e3'"),
    (line(I13='"5"'), 'non-integer', 'I13', '\'"5"\''),
    (line(I1='2147483648'), 'integer out of range', 'I1', "'2147483648'"),
    (line(I1='9' * 5000), 'integer out of range', 'I1', "'999"),
    (line(C26='xyz'), 'non-hex category', 'C26', "'xyz'"),
    (line(C26='000000001'), 'non-hex category', 'C26', "'000000001'"),
    (line(C1='-1'), 'non-hex category', 'C1', "'-1'"),
    (line(C1='0x1'), 'non-hex category', 'C1', "'0x1'"),
    (line() + b'\t', 'wrong number of columns', None, '41 columns'),
    (line()[2:], 'wrong number of columns', None, '39 columns'),
    (b'', 'wrong number of columns', None, '1 columns'),
    (line(C1='\udcff'), 'invalid UTF-8', None, "b'\\xff"),
    (line(C1='\0'), 'NUL byte', None, "'1\\t5"),
  ],
)
def test_each_fault_is_told_by_kind_column_and_value(text, kind, column, value):
  found = line_fault(text)
  assert (found.kind, found.column) == (kind, column)
  assert found.value.startswith(value)
  assert len(found.value) < 80
  assert parse_lines(text + b'\n') is None


def test_short_lines_are_not_filled_up_by_long_ones():
  chunk = line()[2:] + b'\n' + line() + b'\t\n'
  assert parse_lines(chunk) is None
  frame, bad = sift_lines(chunk)
  assert frame.height == 0
  assert [number for number, _ in bad] == [0, 1]


def test_a_chunk_without_good_rows_is_an_empty_frame():
  frame, bad = sift_lines(b'x\n')
  assert frame.equals(pl.DataFrame(schema=SCHEMA))
  assert len(bad) == 1


def test_a_chunk_is_parsed_in_parts_that_join(monkeypatch):
  lines = [line(I1=str(i), C1=f'{i:x}', C2='') + b'\n' for i in range(20)]
  whole = parse_lines(b''.join(lines))
  monkeypatch.setattr(criteo_parse, '_TEXT_BYTES', 2 * len(lines[0]))
  assert parse_lines(b''.join(lines)).equals(whole)
  assert whole['I1'].to_list() == whole['C1'].to_list() == list(range(20))
  lines[7] = lines[18] = b'x\n'
  assert parse_lines(b''.join(lines)) is None
  frame, bad = sift_lines(b''.join(lines))
  assert frame['I1'].to_list() == [i for i in range(20) if i not in (7, 18)]
  assert [number for number, _ in bad] == [7, 18]


def test_a_line_without_an_end_is_not_taken_for_one():
  for function in (parse_lines, sift_lines):
    with pytest.raises(ValueError, match='has no end'):
      function(line() + b'\n' + line())
