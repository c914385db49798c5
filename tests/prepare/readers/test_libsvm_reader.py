"""LIBSVM and LIBFFM are read as a plain definition reads them, or refused."""

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.readers.formats import reader_of
from dlrm_jax.prepare.readers.reader import NUMBER
from dlrm_jax.vocabulary import keys
from dlrm_jax.vocabulary.columns import Sparse

IGNORE = bytes  # a digest
SVM = {'format': 'libsvm'}
FFM = {'format': 'libffm', 'fields': 3}
NUMERAL = rb'[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?'
WORDS = {b'true': 1.0, b't': 1.0, b'yes': 1.0, b'y': 1.0}
WORDS |= {b'false': 0.0, b'f': 0.0, b'no': 0.0, b'n': 0.0}


def read(path, raw, bad='stop'):
  reader, found, rows = reader_of(raw), BadRows(bad), []
  for piece in reader.pieces(str(path)):
    for frame in reader.read(piece, found, IGNORE):
      rows += frame.drop(NUMBER).rows()
  return rows, found


def plain_label(text):
  """A label in the plainest Python, -1 too, or None."""
  if text.lower() in WORDS:
    return WORDS[text.lower()]
  value = float(text) if re.fullmatch(NUMERAL, text) else None
  return value if value in (-1, 0, 1) else None


def plain_features(features, fields):
  """The bags of a row, or ValueError."""
  bags = [([], []) for _ in range(fields or 1)]
  for feature in features:
    field, index, value = ([b'0'] * (not fields)) + feature.split(b':')
    if not re.fullmatch(rb'[0-9]{1,9}', field) or int(field) >= len(bags):
      raise ValueError
    if not re.fullmatch(rb'[0-9]{1,20}', index) or int(index) >= 2**64:
      raise ValueError
    if not re.fullmatch(NUMERAL, value) or not abs(float(value)) < 3.402824e38:
      raise ValueError
    weight = struct.unpack('<f', struct.pack('<f', float(value)))[0]
    bags[int(field)][0].append(int(index))
    bags[int(field)][1].append(weight)
  return [part for bag in bags for part in bag]


def plain(lines, fields):
  """Good rows of a file, and the numbers of bad ones, in plain Python."""
  rows = []
  for number, line in enumerate(lines, 1):
    parts = line.split(b'#')[0].strip(b' \t\r')
    if parts:
      label, *features = re.split(rb'[ \t]+', parts)
      if features and re.fullmatch(rb'qid:[0-9]+', features[0]):
        del features[0]
      rows.append((number, plain_label(label), features))
  good, bad = [], []
  for number, label, features in rows:
    try:
      if label is None:
        raise ValueError
      good.append((label, *plain_features(features, fields)))
    except ValueError:
      bad.append(number)
  return good, bad


def kept(value):
  """Ids as frames have them."""
  if not isinstance(value, list):
    return value
  return [keys.as_int64(x) if isinstance(x, int) else x for x in value]


ODD = """1:x :1 1: 1:1:1 1:nan 1:inf 1:1e39 -1:1 +1:1 1.5:2 1::2 x 1:0x1 1:1_0
9999999999999999999:1 18446744073709551616:1 9223372036854775807:+1 qid:3 # #x
#é 3:1:1 0:5:.5 1:²"""
odd = st.sampled_from(ODD.split()) | st.text(' \t:0123456789.-+e#', max_size=8)
LABELS = ['1', '+1', '1.0', '0', '-1', '0.0', '1.0000000', '1e0', '-1.0', '-0']


@st.composite
def lines(draw, fields):
  label = draw(st.sampled_from(LABELS) | st.sampled_from(['2', '', '1,3', 'T']))
  pair = '{}:{}'.format
  pairs = st.builds(pair, st.integers(0, 99), st.floats(-9, 9, width=32))
  if fields:
    pairs = st.builds(pair, st.integers(0, fields - 1), pairs)
  parts = draw(st.lists(pairs, max_size=4))
  if draw(st.integers(0, 2)) == 0:
    parts.insert(draw(st.integers(0, len(parts))), draw(odd))
  end = draw(st.sampled_from(['', ' ', '\r', ' \t', ' # a: b', '#']))
  return (
    draw(st.sampled_from([' ', '  '])).join([label, *parts]) + end
  ).encode()


@pytest.fixture(scope='module')
def scratch(tmp_path_factory):
  return tmp_path_factory.mktemp('svm') / 'log.txt'


@pytest.mark.parametrize('raw', [SVM, FFM])
@given(data=st.data())
def test_a_row_is_what_the_definition_says(raw, scratch, data):
  fields = raw.get('fields', 0)
  texts = data.draw(st.lists(lines(fields), min_size=1, max_size=4))
  good, bad = plain(texts, fields)
  scratch.write_bytes(b'\n'.join([*texts, b'']))
  rows, found = read(scratch, raw, 'skip')
  assert rows == [tuple(map(kept, row)) for row in good]
  assert sum(found.counts.values()) == len(bad)
  if bad:
    with pytest.raises(InputError, match=rf'line {bad[0]}\b'):
      read(scratch, raw)


def test_columns_are_weighted_bags():
  bag = {'bag': True, 'weighted': True, 'hotness': 5}
  hashed = {'ids': 'hashed', 'rows': 100}
  svm = reader_of(SVM | hashed | {'hotness': 5}).columns
  assert svm.sparse == (Sparse('features', **hashed, **bag),)
  ffm = reader_of(FFM | {'hotness': 5}).columns
  assert ffm.sparse == tuple(Sparse(f'field{i}', **bag) for i in range(3))
  named = reader_of(FFM | {'fields': ['a', 'b']}).columns
  assert [column.name for column in named.sparse] == ['a', 'b']


@pytest.mark.parametrize(
  ('raw', 'word'),
  [
    ({'format': 'libffm'}, 'fields'),
    (FFM | {'fields': '3'}, "'3'"),
    (SVM | {'label': 'x'}, "'label'"),
    (SVM | {'ids': 'rows'}, 'rows'),
    (SVM | {'fields': 3}, 'fields is 3; expected a list'),
    (SVM | {'fields': []}, 'fields'),
    (SVM | {'fields': ['a', 'a']}, 'twice'),
    (SVM | {'fields': ['a', 'label']}, "'label'"),
    (SVM | {'fields': ['a'], 'hotness': 2}, "'hotness'"),
  ],
)
def test_a_mistake_in_the_config_is_named(raw, word):
  with pytest.raises(InputError, match=word):
    reader_of(raw)


def test_hotness_keeps_the_first_ids(scratch):
  scratch.write_text('1 5:1 6:2 7:3\n0\n')
  rows, _ = read(scratch, SVM | {'hotness': 2})
  assert rows == [(1, [5, 6], [1.0, 2.0]), (0, [], [])]


def test_what_svmlight_writes_beside_data_is_left_out(scratch):
  scratch.write_text(
    '# dumped by a program: é\n\n1.0 qid:3 7:1.0000000 0:.5 # a note\n'
    '   \n-0 qid:4 7:1 7:2#\n  #\n1 2:x\n'
  )
  rows, bad = read(scratch, SVM, 'skip')
  assert rows == [(1, [7, 0], [1, 0.5]), (0, [7, 7], [1, 2])]
  (line,) = list(bad.report())[1:]
  assert 'line 7' in line
  assert "'2:x'" in line


def test_ids_may_have_64_bits_and_no_more(scratch):
  ids = [2**64 - 1, 2**63, 2**63 - 1, 10**18, 0]
  scratch.write_text(f'1 {" ".join(f"{x}:1" for x in ids)}\n')
  ((_, found, _),) = read(scratch, SVM)[0]
  assert found == [keys.as_int64(x) for x in ids]
  assert len(set(found)) == 5
  scratch.write_text('1 3:1\n1 18446744073709551616:1\n')
  with pytest.raises(InputError, match=r'line 2: .*index 0 \.\.\. 2\^64 - 1'):
    read(scratch, SVM)


@pytest.mark.parametrize('label', ['2', '0.5', '1,3', 'nan', '-', '1:1'])
def test_another_label_is_a_bad_row(scratch, label):
  scratch.write_text(f'1 3:1\n{label} 3:1\n')
  with pytest.raises(InputError, match=f"line 2: bad label: '{label}'"):
    read(scratch, SVM)


POSITIONS = SVM | {'fields': ['user', 'item', 'day']}


def test_positions_may_be_features_of_one_id(scratch):
  scratch.write_text('1 5:1 6:1.000 7:1\n\n-1 2:1e0 9:1 1:1\n')
  assert read(scratch, POSITIONS)[0] == [(1, 5, 6, 7), (-1, 2, 9, 1)]
  columns = reader_of(POSITIONS | {'ids': 'hashed', 'rows': 9}).columns
  assert columns.sparse[1] == Sparse('item', ids='hashed', rows=9)


@pytest.mark.parametrize(
  ('row', 'words'),
  [
    ('1 5:1 6:1', ['2 features', 'expected 3']),
    ('1 5:1 6:1 7:1 8:1', ['4 features', 'expected 3']),
    ('1 5:1 6:.5 7:1', ["'6:.5'", 'value 1']),
    ('1 5:1 6:1 x:1', ["'x:1'", 'index:value']),
  ],
)
def test_positions_that_do_not_fit_are_bad_rows(scratch, row, words):
  scratch.write_text(f'1 5:1 6:1 7:1\n{row}\n0 1:1 2:1 3:1\n')
  with pytest.raises(InputError) as error:
    read(scratch, POSITIONS)
  for word in ('line 2', *words):
    assert word in str(error.value), word
  assert read(scratch, POSITIONS, 'skip')[0] == [(1, 5, 6, 7), (0, 1, 2, 3)]
