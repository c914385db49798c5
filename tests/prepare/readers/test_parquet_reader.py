"""Parquet is read as its types and the schema say, or refused by name."""

import datetime

import polars as pl
import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.readers import parquet_reader
from dlrm_jax.prepare.readers.formats import reader_of
from dlrm_jax.prepare.readers.reader import NUMBER

RAW = {
  'format': 'parquet',
  'label': 'click',
  'dense': ['price'],
  'sparse': {'user': 'integer', 'site': 'string'},
  'bags': {'tags': {'weights': 'scores', 'values': 'integer', 'hotness': 2}},
  'weight': 'w',
  'time': 'when',
}
WHEN = datetime.datetime(2020, 1, 1)
COLUMNS = {
  'click': [True, False, True],
  'price': [1.5, None, -2.0],
  'user': [1, 2**40, None],
  'site': ['a', 'b', 'é'],
  'tags': [[1, 2, 3], [], None],
  'scores': [[0.5, 1.0, 2.0], [], None],
  'w': [1, 2, 3],
  'when': [WHEN, WHEN, WHEN],
  'left_out': ['x'] * 3,
}
SECONDS = 1577836800.0
ROWS = [
  (1, 1.5, 1, 'a', [1, 2], [0.5, 1.0], 1.0, SECONDS),
  (0, None, 2**40, 'b', [], [], 2.0, SECONDS),
  (1, -2.0, None, 'é', [], [], 3.0, SECONDS),
]


def read(path, bad='stop', **changes):
  reader = reader_of(RAW | changes)
  found, digests, rows = BadRows(bad), [], []
  for piece in reader.pieces(str(path)):
    for frame in reader.read(piece, found, digests.append):
      rows += frame.drop(NUMBER).rows()
  return rows, found, digests


@pytest.fixture
def write(tmp_path):
  def written(**changes):
    path = tmp_path / 'log.parquet'
    pl.DataFrame(COLUMNS | changes, strict=False).write_parquet(path)
    return path

  return written


def test_rows_are_those_of_the_file(write):
  assert read(write())[0] == ROWS


def test_pieces_and_row_groups_make_no_difference(tmp_path, monkeypatch):
  path = tmp_path / 'log.parquet'
  frame = pl.concat([pl.DataFrame(COLUMNS)] * 40)
  frame = frame.with_columns(user=pl.int_range(120))
  frame.write_parquet(path, row_group_size=50)
  monkeypatch.setattr(parquet_reader, 'FRAME_ROWS', 33)
  rows, _, digests = read(path)
  assert [row[2] for row in rows] == list(range(120))
  assert len(set(digests)) == 4
  assert reader_of(RAW).about(str(path)) == 120


def test_the_digest_is_of_the_values(write):
  _, _, before = read(write())
  _, _, other = read(write(tags=[[1, 2, 4], [], None]))
  assert read(write())[2] == before != other


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'click': [1, 0, 2]}, ['row 3', 'column click', 'bad label', '2']),
    ({'click': [1, None, 1]}, ['row 2', 'column click', 'nothing']),
    ({'price': [1.0, 2, float('inf')]}, ['row 3', 'column price', 'inf']),
    ({'tags': [[1, None, 2], [], []]}, ['row 1', 'column scores', 'of tags']),
    ({'scores': [[1.0], [], []]}, ['row 1', 'column scores', 'each of tags']),
    ({'w': [1, -1, 1]}, ['row 2', 'column w', '-1', '>= 0']),
    ({'when': [WHEN, None, WHEN]}, ['row 2', 'column when', 'a time']),
  ],
)
def test_a_bad_row_is_named(write, changes, words):
  path = write(**changes)
  with pytest.raises(InputError) as error:
    read(path)
  for word in (str(path), *words):
    assert word in str(error.value), word
  rows, bad, _ = read(path, 'skip')
  assert len(rows) == 2
  assert sum(bad.counts.values()) == 1


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'user': [WHEN] * 3}, ["'user' is Datetime", 'values that are integer']),
    ({'user': [{'a': 1}] * 3}, ["'user' is Struct", 'integer']),
    ({'site': [1.5] * 3}, ["'site' is Float64", "say 'values': 'integer'"]),
    ({'site': [True] * 3}, ["'site' is Boolean", "say 'values': 'integer'"]),
    ({'click': [WHEN] * 3}, ["'click' is Datetime", 'labels']),
    ({'site': [1, 2, 3]}, ["'site' is Int64", "say 'values': 'integer'"]),
    ({'tags': [1, 2, 3]}, ["'tags' is Int64", 'lists']),
    ({'tags': [[WHEN], [], []]}, ["'tags'", 'lists of integer']),
    ({'tags': [[[1]], [], []]}, ["'tags'", 'lists of integer']),
    ({'price': [[1.0], [], []]}, ["'price'", 'numbers']),
    ({'when': [True] * 3}, ["'when' is Boolean", 'dates']),
  ],
)
def test_a_column_of_another_type_is_named_before_reading(
  write, changes, words
):
  path = write(**changes)
  with pytest.raises(InputError) as error:
    reader_of(RAW).pieces(str(path))
  for word in (str(path), *words):
    assert word in str(error.value), word


def test_a_missing_column_and_a_broken_file_are_named(write):
  path = write()
  with pytest.raises(InputError, match=r"'usr'.*did you mean 'user'"):
    reader_of(RAW | {'sparse': {'usr': 'integer'}}).pieces(str(path))
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(InputError, match='not a whole Parquet file'):
    reader_of(RAW).pieces(str(path))
