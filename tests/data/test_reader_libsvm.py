"""LIBSVM and LIBFFM are read as a plain definition reads them, or refused."""

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax.data.bad_rows import BadRows
from dlrm_jax.data.raw import NUMBER, Sparse
from dlrm_jax.data.readers import reader_of
from dlrm_jax.errors import InputError

IGNORE = bytes  # a digest
SVM = {'format': 'libsvm'}
FFM = {'format': 'libffm', 'fields': 3}
LABELS = {b'1': 1, b'+1': 1, b'0': 0, b'-1': 0}
FLOAT = rb'-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?'


def read(path, raw, bad='stop'):
  reader, found, rows = reader_of(raw), BadRows(bad), []
  for piece in reader.pieces(str(path)):
    for frame in reader.read(piece, found, IGNORE):
      rows += frame.drop(NUMBER).rows()
  return rows, found


def plain(line, fields):
  """A row in the plainest Python, or ValueError."""
  label, *features = re.split(rb'[ \t]+', line.rstrip(b' \t\r'))
  if label not in LABELS:
    raise ValueError
  bags = [([], []) for _ in range(fields or 1)]
  for feature in features:
    field, index, value = ([b'0'] * (not fields)) + feature.split(b':')
    if not re.fullmatch(rb'[0-9]{1,9}', field) or int(field) >= len(bags):
      raise ValueError
    if not re.fullmatch(rb'[0-9]{1,18}', index):
      raise ValueError
    if not re.fullmatch(FLOAT, value) or not abs(float(value)) < 3.402824e38:
      raise ValueError
    weight = struct.unpack('<f', struct.pack('<f', float(value)))[0]
    bags[int(field)][0].append(int(index))
    bags[int(field)][1].append(weight)
  return (LABELS[label], *(part for bag in bags for part in bag))


ODD = """1:x :1 1: 1:1:1 1:nan 1:inf 1:1e39 -1:1 +1:1 1.5:2 1::2 x 1:0x1 1:1_0
9999999999999999999:1 qid:3 # 3:1:1 0:5:.5 1:²"""
odd = st.sampled_from(ODD.split()) | st.text(' \t:0123456789.-+e', max_size=8)


@st.composite
def lines(draw, fields):
  label = draw(st.sampled_from(['1', '+1', '0', '-1'] * 4 + ['2', '', '1.0']))
  pair = '{}:{}'.format
  pairs = st.builds(pair, st.integers(0, 99), st.floats(-9, 9, width=32))
  if fields:
    pairs = st.builds(pair, st.integers(0, fields - 1), pairs)
  parts = draw(st.lists(pairs, max_size=4))
  if draw(st.integers(0, 2)) == 0:
    parts.insert(draw(st.integers(0, len(parts))), draw(odd))
  end = draw(st.sampled_from(['', ' ', '\r', ' \t']))
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
  good, bad = [], []
  for number, text in enumerate(texts, 1):
    try:
      good.append(plain(text, fields))
    except ValueError:
      bad.append(number)
  scratch.write_bytes(b'\n'.join([*texts, b'']))
  rows, found = read(scratch, raw, 'skip')
  assert rows == good
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


@pytest.mark.parametrize(
  ('raw', 'word'),
  [
    ({'format': 'libffm'}, 'fields'),
    (FFM | {'fields': '3'}, "'3'"),
    (SVM | {'label': 'x'}, "'label'"),
    (SVM | {'ids': 'rows'}, 'rows'),
  ],
)
def test_a_mistake_in_the_config_is_named(raw, word):
  with pytest.raises(InputError, match=word):
    reader_of(raw)


def test_hotness_keeps_the_first_ids(scratch):
  scratch.write_text('1 5:1 6:2 7:3\n0\n')
  rows, _ = read(scratch, SVM | {'hotness': 2})
  assert rows == [(1, [5, 6], [1.0, 2.0]), (0, [], [])]
