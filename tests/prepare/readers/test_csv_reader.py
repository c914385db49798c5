"""CSV is read by its schema; mistakes of files and configs are named."""

import csv
import gzip
import math

import polars as pl
import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.readers import lines as raw_text
from dlrm_jax.prepare.readers import text_files
from dlrm_jax.prepare.readers.formats import reader_of
from dlrm_jax.prepare.readers.reader import NUMBER
from dlrm_jax.vocabulary.columns import Columns, Dense, Sparse, Target
from tests.prepare.readers.csv_log import (
  GOOD,
  HEADER,
  IGNORE,
  NAMES,
  RAW,
  ROW,
  read,
)


@pytest.fixture
def write(tmp_path):
  """Writes a CSV file of rows that are good but for what is given."""

  def written(*rows, header=HEADER, ends='\n'):
    path = tmp_path / 'log.csv'
    lines = [header] if header else []
    for row in rows:
      fields = [row.get(n, x) for n, x in zip(NAMES, GOOD, strict=True)]
      lines.append(','.join(fields))
    path.write_bytes(ends.join([*lines, '']).encode())
    return path

  return written


def test_columns_follow_the_schema():
  assert reader_of(RAW).columns == Columns(
    dense=(Dense('price', 'log3'),),
    sparse=(
      Sparse('user'),
      Sparse('site'),
      Sparse('word'),
      Sparse('tags', hotness=2, bag=True, weighted=True),
    ),
    time=True,
    targets=(Target('click', 'click'),),
  )


def test_a_frame_has_the_types_and_the_order_of_raw(write):
  reader = reader_of(RAW | {'weight': 'price'})
  path = str(write({}))
  (frame,) = reader.read(reader.pieces(path)[0], BadRows(), IGNORE)
  assert dict(frame.schema) == {
    'label': pl.Int8,
    'price': pl.Float64,
    'user': pl.Int64,
    'site': pl.UInt32,
    'word': pl.String,
    'tags': pl.List(pl.Int64),
    'tags.weights': pl.List(pl.Float32),
    'weight': pl.Float32,
    'time': pl.Float64,
    NUMBER: pl.UInt32,
  }
  assert frame.row(0)[:7] == ROW[:7]


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'click': '2'}, ['column click', 'bad label', "'2'", '0 or 1']),
    ({'click': ''}, ['column click', 'nothing']),
    ({'price': 'inf'}, ['column price', "'inf'", 'finite number']),
    ({'price': '-3'}, ['column price', "'-3'", 'above -3']),
    ({'user': '7.5'}, ['column user', "'7.5'", 'integer']),
    ({'site': '1ff00ff00'}, ['column site', '1 to 8 hex digits']),
    ({'tags': '3|x|4'}, ['column tags', 'each an integer']),
    ({'tags': '"[[3,4,5]]"'}, ['column tags', 'one list']),
    ({'tags': '3||4'}, ['column scores', 'for each of tags']),
    ({'tags': '3|4'}, ['column scores', 'for each of tags']),
    ({'hour': ''}, ['column hour', 'nothing', 'a number', 'a date']),
    ({'word': 'a,b'}, ['9 columns', '8 between']),
    ({'word': '"a'}, ['open quote', 'multiline']),
    ({'word': 'a"b"'}, ['stray quote', 'whole fields']),
  ],
)
def test_a_bad_row_is_one_line_that_names_it(write, changes, words):
  path = write({}, changes)
  with pytest.raises(InputError) as error:
    read(path)
  message = str(error.value)
  assert '\n' not in message
  for word in (str(path), 'line 3', *words):
    assert word in message, word


def test_pieces_make_the_same_rows_and_name_the_same_lines(write, monkeypatch):
  path = write(*({'user': str(i)} for i in range(500)), {'user': 'x'}, {})
  whole, _ = read(path, 'skip')
  monkeypatch.setattr(raw_text, 'PIECE_BYTES', 1000)
  monkeypatch.setattr(text_files, 'CHUNK_BYTES', 300)
  assert len(reader_of(RAW).pieces(str(path))) > 10
  rows, bad = read(path, 'skip')
  assert rows == whole
  assert [row[2] for row in rows] == [*range(500), 7]
  assert 'line 502' in ' '.join(bad.report())


def test_gzip_is_one_piece_and_gives_the_same_rows(write):
  path = write(*({'user': str(i)} for i in range(50)))
  packed = path.with_suffix('.csv.gz')
  packed.write_bytes(gzip.compress(path.read_bytes()))
  assert read(packed)[0] == read(path)[0]
  packed.write_bytes(packed.read_bytes()[:-20])
  with pytest.raises(InputError, match=r'damaged gzip.*truncated'):
    read(packed)


@pytest.mark.parametrize('ends', ['\n', '\r\n'])
def test_quotes_byte_order_mark_and_line_ends_are_understood(write, ends):
  path = write({'word': '"a, ""b"""'}, {'user': '"8"'}, ends=ends)
  path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes().removesuffix(b'\n'))
  rows, _ = read(path)
  assert [row[4] for row in rows] == ['a, "b"', 'é']
  assert [row[2] for row in rows] == [7, 8]


def test_fields_may_go_over_lines_when_the_schema_says_so(write):
  path = write({}, {'word': '"a\nb,\n""c"'}, {'word': 'd'}, {'user': 'x'})
  rows, bad = read(path, 'skip', multiline=True)
  assert [row[4] for row in rows] == ['é', 'a\nb,\n"c', 'd']
  assert 'line 7' in ' '.join(bad.report())
  assert len(reader_of(RAW | {'multiline': True}).pieces(str(path))) == 1


def test_quotes_may_mean_nothing(write):
  rows, _ = read(write({'word': '"a'}), quoted=False)
  assert rows[0][4] == '"a'


def test_names_come_from_the_config_where_a_file_has_none(write):
  path = write({}, header='')
  assert read(path, header=NAMES)[0] == [ROW]


def test_a_label_may_be_a_threshold(write):
  path = write({'click': '3.5'}, {'click': '4'}, {'click': '-1'})
  rows, _ = read(path, label='click >= 4')
  assert [row[0] for row in rows] == [0, 1, 0]


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'sparce': ['user']}, ["'sparce'", "'sparse'"]),
    ({'label': 'clik'}, ["'clik'", "'click'", 'log.csv']),
    ({'sparse': {'usr': None}}, ["'usr'", "'user'"]),
    ({'sparse': ['user', 'user']}, ['sparse', 'twice']),
    ({'sparse': {'user': 'int'}}, ['sparse.user.values', "'int'", 'integer']),
    ({'sparse': {'user': {'id': 1}}}, ['sparse.user', "'id'", 'ids']),
    ({'sparse': {'user': {'ids': 'hashed'}}}, ['sparse.user', 'rows']),
    ({'sparse': {'user': {'rows': 5}}}, ['sparse.user', 'rows 5']),
    ({'sparse': ['time']}, ["'time'", "{'column': 'time'}"]),
    ({'sparse': 'user'}, ['sparse', "'user'", 'list']),
    ({'dense': {'price': 'log'}}, ['dense.price.transform', 'log1p']),
    ({'bags': {'tags': {'separator': ''}}}, ['bags.tags.separator']),
    ({'bags': {'tags': {'hotness': -1}}}, ['bags.tags.hotness', '-1']),
    ({'dense': ['user']}, ['two features', "'user'"]),
    (
      {'dense': {'again': {'column': 'click'}}},
      ["'click' is the label", "'again'"],
    ),
    (
      {'label': 'price >= 2', 'bags': {'tags': {'weights': 'price'}}},
      ["'price' is the label"],
    ),
    ({'separator': '::'}, ['separator', "'::'", 'one ASCII']),
    ({'separator': ';'}, ['log.csv, line 1', 'one column', 'separator']),
    ({'header': ('a', 'b')}, ["'click'", 'header']),
    ({'format': 'cvs'}, ['format', "'cvs'", 'csv, parquet']),
    ({'quoted': 'no'}, ['quoted', "'no'", 'True or False']),
    ({'label': None}, ['label', 'None']),
  ],
)
def test_a_mistake_in_the_config_is_one_clear_line(write, changes, words):
  path = write({})
  with pytest.raises(InputError) as error:
    reader_of(RAW | changes).pieces(str(path))
  message = str(error.value)
  assert '\n' not in message
  for word in words:
    assert word in message, (word, message)


def test_files_that_are_no_logs_are_named(tmp_path):
  for name, text in (('empty.csv', b''), ('latin.csv', b'\xe9,b\n')):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(InputError, match=name):
      reader_of(RAW).pieces(str(tmp_path / name))
  for name in ('missing.csv', ''):
    with pytest.raises(InputError, match=r'no such file|not a file'):
      reader_of(RAW).pieces(str(tmp_path / name))


def test_frappe_is_read_as_the_csv_module_reads_it(real_data):
  from configs import frappe

  path = real_data / 'frappe' / 'valid.csv'
  with open(path, newline='') as file:
    want = [tuple(map(int, row)) for row in list(csv.reader(file))[1:]]
  reader = reader_of(frappe.get_config().data.raw)
  (piece,) = reader.pieces(str(path))
  frames = list(reader.read(piece, BadRows(), IGNORE))
  assert pl.concat(frames).drop(NUMBER).rows() == want
  assert math.isclose(
    sum(row[0] for row in want) / len(want), 1 / 3, abs_tol=0.01
  )


def test_avazu_is_read_as_kaggle_gives_it(tmp_path):
  from configs import avazu

  path = tmp_path / 'train.csv'
  path.write_text(
    'id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,'
    'app_domain,app_category,device_id,device_ip,device_model,device_type,'
    'device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21\n'
    '10000000000000000001,0,14102100,1005,0,0000000a,b,c,d,e,f,a0,a1,a2,1,2,'
    '15706,320,50,1722,0,35,-1,79\n'
  )
  reader = reader_of(avazu.get_config().data.raw)
  (piece,) = reader.pieces(str(path))
  (frame,) = reader.read(piece, BadRows(), IGNORE)
  assert len(reader.columns.sparse) == 21
  row = frame.row(0, named=True)
  assert (row['label'], row['time']) == (0, 14102100)
  assert (row['site_id'], row['device_model'], row['C20']) == (10, 0xA2, -1)
