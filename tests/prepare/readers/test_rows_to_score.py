"""Logs that are read to be scored: without labels, with columns to keep."""

import dataclasses
import itertools

import polars as pl
import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.criteo.criteo_reader import (
  CriteoReader,
  UnlabelledCriteoReader,
  has_labels,
)
from dlrm_jax.prepare.fitting import Fit, fitting
from dlrm_jax.prepare.readers.csv_reader import CsvReader
from dlrm_jax.prepare.readers.formats import reader_of
from dlrm_jax.prepare.readers.parquet_reader import ParquetReader
from dlrm_jax.prepare.readers.reader import BAD, NUMBER, Piece
from dlrm_jax.prepare.stages.encode import encode_frame
from dlrm_jax.prepare.values.rules import KEPT
from dlrm_jax.vocabulary.coder import Coder, Values

RAW = {
  'format': 'csv',
  'label': 'click',
  'dense': {'price': 'log3'},
  'sparse': {'user': {'ids': 'rows', 'rows': 5, 'values': 'integer'}},
  'weight': 'w',
  'time': 't',
  'group': 'user',
}
TEXT = """user,price,id,more
1,2.5,a,
7,2.5,b,x
1,dear,c,y
1,2,3,4,5
2,-9,d,z
3,,e,
"""


def reader(kept):
  own = reader_of(RAW)
  assert isinstance(own, CsvReader)
  schema = dataclasses.replace(own.schema.to_score(), kept=kept)
  return dataclasses.replace(own, schema=schema)


def rows(reader, path, bad, fit=None):
  """Frames of all pieces as one."""
  frames = []
  for piece in reader.pieces(str(path)):
    if fit:
      frames += fitting(reader, piece, bad, bytes, fit, numbered=True)
    else:
      frames += reader.read(piece, bad, bytes)
  return pl.concat(frames)


@pytest.fixture
def log(tmp_path):
  path = tmp_path / 'log.csv'
  path.write_text(TEXT)
  return path


def test_labels_weights_times_and_groups_are_not_needed(log):
  assert reader(()).schema.names == ('price', 'user')
  bad = BadRows('skip')
  found = rows(reader(()), log, bad)
  assert found.columns == ['price', 'user', NUMBER]
  assert found[NUMBER].to_list() == [1, 2, 6]
  assert bad.counts == {'wrong number of columns': 1, 'not a number': 2}


def test_columns_to_keep_pass_as_they_are_and_bad_rows_stay(log):
  bad = BadRows('skip')
  found = rows(reader(('more', 'id')), log, bad)
  assert found[NUMBER].to_list() == [1, 2, 3, 5, 6]
  assert found[BAD].to_list() == [False, False, True, True, False]
  assert found[f'{KEPT}id'].to_list() == ['a', 'b', 'c', 'd', 'e']
  assert found[f'{KEPT}more'].to_list() == [None, 'x', 'y', 'z', None]
  assert bad.counts == {'wrong number of columns': 1, 'not a number': 2}


@pytest.mark.parametrize('kept', [(), ('id',)])
def test_rows_that_do_not_fit_are_marked_too(log, kept):
  """Those that are bad already are reported once."""
  bad = BadRows('skip')
  own = reader(kept)
  found = rows(own, log, bad, Fit(own.columns, {}, {}, 'stop'))
  numbers = [1, 6] if not kept else [1, 2, 3, 5, 6]
  assert found[NUMBER].to_list() == numbers
  if kept:
    assert found[BAD].to_list() == [False, True, True, True, False]
    assert found[f'{KEPT}id'].to_list() == ['a', 'b', 'c', 'd', 'e']
  assert bad.counts == {
    'wrong number of columns': 1,
    'not a number': 2,
    'id out of range': 1,
  }
  (example,) = bad.examples['id out of range']
  assert example.startswith('log.csv, line 3, column user')


def test_bad_rows_of_parquet_stay_with_their_columns(tmp_path):
  frame = pl.DataFrame(
    {
      'user': [1, 2, 3],
      'price': [1.0, float('inf'), 2.0],
      'when': pl.Series([[1], [2, 3], None]),
    }
  )
  frame.write_parquet(tmp_path / 'log.parquet')
  own = ParquetReader(reader(('when',)).schema)
  bad = BadRows('skip')
  found = rows(own, tmp_path / 'log.parquet', bad)
  assert found[BAD].to_list() == [False, True, False]
  assert found[f'{KEPT}when'].equals(frame['when'])
  assert found[NUMBER].to_list() == [0, 1, 2]


def test_a_column_to_keep_may_be_a_feature(log):
  found = rows(reader(('price',)), log, BadRows('skip'))
  assert found['price'].to_list() == [2.5, 2.5, None, -9.0, None]
  assert found[f'{KEPT}price'].to_list() == ['2.5', '2.5', 'dear', '-9', None]


@pytest.mark.parametrize(
  ('kept', 'message'),
  [
    (('no',), r"no column 'no', which --keep names; .*'user', 'price', 'id'"),
    (('idd',), r"no column 'idd', which --keep names \(did you mean 'id'\?\)"),
  ],
)
def test_a_column_to_keep_that_is_not_there(log, kept, message):
  with pytest.raises(InputError, match=message):
    reader(kept).pieces(str(log))


def test_a_missing_feature_is_one_of_the_model(tmp_path):
  path = tmp_path / 'log.csv'
  path.write_text('user,id\n1,2\n')
  with pytest.raises(InputError, match="no column 'price', which the model"):
    reader(()).pieces(str(path))


def test_rows_without_labels_are_encoded(log):
  own = reader(())
  (sparse,) = own.columns.sparse
  fit = Fit(own.columns, {}, {}, 'unknown')
  frame = rows(own, log, BadRows('skip'), fit)
  block = encode_frame(own.columns, [Coder(sparse, 5, 1, Values())], frame)
  assert block.labels.shape == (len(block.ids), 0)
  assert block.ids[:, 0].tolist() == [1, 0, 3]  # 7 is no row: row 0


def line(number):
  numbers = [str(number + n) for n in range(13)]
  return '\t'.join([*numbers, *[''] * 25, f'{number:x}'])


def criteo(path, own, on_bad_row='stop'):
  bad = BadRows(on_bad_row)
  size = path.stat().st_size
  cuts = [0, size // 3, size // 2, size]
  pieces = [Piece(str(path), a, b) for a, b in itertools.pairwise(cuts)]
  return pl.concat(
    [frame for p in pieces for frame in own.read(p, bad, bytes)]
  ), bad


@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('last', ['', 'end'])
def test_lines_of_criteo_without_labels(tmp_path, end, last):
  lines = [line(n) for n in range(9)]
  both = tmp_path / 'new.txt', tmp_path / 'old.txt'
  both[0].write_text(end.join(lines) + (end if last else ''), newline='')
  old = [f'0\t{x}' for x in lines]
  both[1].write_text(end.join(old) + (end if last else ''), newline='')
  assert [has_labels(str(path)) for path in both] == [False, True]
  new, bad = criteo(both[0], UnlabelledCriteoReader())
  old, _ = criteo(both[1], CriteoReader())
  assert new.drop(NUMBER).equals(old.drop(NUMBER))
  assert new['C26'].to_list() == list(range(9))
  assert not bad.counts


def test_faults_of_lines_without_labels(tmp_path):
  lines = [line(n) for n in range(9)]
  lines[1] = lines[1].replace('1\t', 'one\t', 1)
  lines[4] += '\t7'
  lines[8] = 'ff'
  (tmp_path / 'new.txt').write_text('\n'.join(lines) + '\n')
  found, bad = criteo(tmp_path / 'new.txt', UnlabelledCriteoReader(), 'skip')
  assert found['C26'].to_list() == [0, 2, 3, 5, 6, 7]
  expected = 'expected 39 between tabs (I1 ... I13, C1 ... C26)'
  assert bad.examples['wrong number of columns'] == [
    f'new.txt, line 5: wrong number of columns: 40 columns; {expected}',
    f'new.txt, line 9: wrong number of columns: 1 columns; {expected}',
  ]
  ((example,),) = (
    x for k, x in bad.examples.items() if k != 'wrong number of columns'
  )
  assert example.startswith('new.txt, line 2, column I1')
  assert "'one'" in example
