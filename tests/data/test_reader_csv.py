"""CSV is read exactly as a plain Python definition reads it, or refused."""

import csv
import gzip
import math
import pickle
import re
import struct

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dlrm_jax.data import criteo_files, raw_text
from dlrm_jax.data.bad_rows import BadRows
from dlrm_jax.data.raw import NUMBER, Columns, Dense, Sparse
from dlrm_jax.data.readers import reader_of
from dlrm_jax.errors import InputError

NAMES = ('click', 'price', 'user', 'site', 'word', 'tags', 'scores', 'hour')
HEADER = ','.join(NAMES)
RAW = {
  'format': 'csv',
  'label': 'click',
  'dense': {'price': 'log3'},
  'sparse': {'user': 'integer', 'site': 'hex', 'word': None},
  'bags': {'tags': {'weights': 'scores', 'values': 'integer', 'hotness': 2}},
  'time': 'hour',
}
IGNORE = bytes  # a digest
GOOD = ('1', '2.5', '7', 'ff', 'é', '3|4|5', '1|.5|-2e1', '14102100')
ROW = (1, 2.5, 7, 255, 'é', [3, 4], [1.0, 0.5], 14102100)


def read(path, bad='stop', **changes):
  """All good rows of a file, as tuples, and the bad rows."""
  reader = pickle.loads(pickle.dumps(reader_of(RAW | changes)))
  rows, found = [], BadRows(bad)
  for piece in reader.pieces(str(path)):
    for frame in reader.read(piece, found, IGNORE):
      rows += frame.drop(NUMBER).rows()
  return rows, found


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


def number(text):
  if not re.fullmatch(r'-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?', text, re.A):
    raise ValueError
  value = float(text)
  if not abs(value) <= struct.unpack('<f', b'\xff\xff\x7f\x7f')[0]:
    raise ValueError
  return value


def integer(text):
  if not re.fullmatch(r'-?\d{1,19}', text, re.A):
    raise ValueError
  if not -(2**63) <= int(text) < 2**63:
    raise ValueError
  return int(text)


def above(text):
  if number(text) <= -3:
    raise ValueError
  return number(text)


def hexadecimal(text):
  if not re.fullmatch('[0-9a-fA-F]{1,8}', text):
    raise ValueError
  return int(text, 16)


def float32(text):
  return struct.unpack('<f', struct.pack('<f', number(text)))[0]


def plain_fields(text):
  """Splits a line, quotes minded, a character at a time."""
  fields, place = [], 0
  while True:
    field = ''
    if text[place : place + 1] == '"':
      place += 1
      while True:
        if place >= len(text):
          raise ValueError
        if text[place : place + 2] == '""':
          field, place = field + '"', place + 2
        elif text[place] == '"':
          place += 1
          break
        else:
          field, place = field + text[place], place + 1
    else:
      while place < len(text) and text[place] not in ',"':
        field, place = field + text[place], place + 1
    fields.append(field)
    if place == len(text):
      return fields
    if text[place] != ',':
      raise ValueError
    place += 1


def plain(line):
  """The rules of RAW in the plainest Python: a row, or ValueError."""
  text = line.removesuffix(b'\r').decode()
  if '\0' in text or '\r' in text:
    raise ValueError
  fields = plain_fields(text)
  if fields != (next(csv.reader([text], strict=True)) or ['']):
    raise AssertionError('the csv module disagrees')
  label, price, user, site, word, tags, scores, hour = fields
  words = {'true': 1, 'True': 1, 'TRUE': 1, 'false': 0, 'False': 0, 'FALSE': 0}
  words |= {'0': 0, '1': 1}
  if label not in words:
    raise ValueError
  ids = [integer(x) for x in tags.split('|')] if tags else []
  weights = [float32(x) for x in scores.split('|')] if scores else []
  if len(ids) != len(weights):
    raise ValueError
  return (
    words[label],
    above(price) if price else None,
    integer(user) if user else None,
    hexadecimal(site) if site else None,
    word or None,
    ids[:2],
    weights[:2],
    integer(hour),
  )


ODD = r'''+5 5\s \s5 5.0 1e3 --5 5- - 007 -0 9223372036854775807
9223372036854775808 1e39 -1e39 3.4028235e38 3.4028235e39 NaN nan inf -inf null
0x1f g 000000001 ٣ ² 1_0 \ufeff0 true False yes 2 1 1,2 1|2 1||2 |1 1|2|3 "5"
"" "a""b" "a,b" " """" a"b "a"b -3 -2.999 1e-400 .5 5. 1e 1E5 1e+5 | ' \t #
\N \x00'''
odd = st.sampled_from(
  ['', *(x.replace('\\s', ' ').replace('\\x00', '\0') for x in ODD.split())]
) | st.text(max_size=6)
quoted = st.text(max_size=5).map(lambda x: '"' + x.replace('"', '""') + '"')


@st.composite
def lines(draw):
  fields = list(GOOD)
  for _ in range(draw(st.integers(0, 2))):
    place = draw(st.integers(0, len(fields) - 1))
    fields[place] = draw(odd | quoted)
  if draw(st.integers(0, 9)) == 0:
    fields = draw(st.sampled_from([fields[:-1], [*fields, '1'], []]))
  line = ','.join(fields).encode('utf-8', 'surrogatepass')
  if draw(st.integers(0, 9)) == 0:
    place = draw(st.integers(0, len(line)))
    line = line[:place] + draw(st.binary(max_size=3)) + line[place:]
  return line.replace(b'\n', b'') + draw(st.sampled_from([b'', b'', b'\r']))


@pytest.fixture(scope='module')
def scratch(tmp_path_factory):
  return tmp_path_factory.mktemp('csv') / 'log.csv'


@settings(max_examples=100)
@given(texts=st.lists(lines(), max_size=4))
@example(texts=[b'0,,,,,,,1'])
@example(texts=[b'0,1,2,3,"a""b",,,1', b'0,1,2,3,"",,,1'])
def test_a_row_is_what_the_definition_says(texts, scratch):
  good, bad = [], []
  for line, text in enumerate(texts, 2):
    try:
      good.append(plain(text))
    except ValueError:
      bad.append(line)
  scratch.write_bytes(b'\n'.join([','.join(NAMES).encode(), *texts, b'']))
  rows, found = read(scratch, 'skip')
  assert rows == good
  assert sum(found.counts.values()) == len(bad)
  named = [
    int(re.search(r'line (\d+)', x)[1]) for x in found.report() if ',' in x
  ]
  assert set(named) <= set(bad)
  if bad:
    with pytest.raises(InputError, match=rf'line {bad[0]}\b'):
      read(scratch)


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
  )


def test_a_frame_has_the_types_and_the_order_of_raw(write):
  reader = reader_of(RAW | {'weight': 'price'})
  path = str(write({}))
  (frame,) = reader.read(reader.pieces(path)[0], BadRows(), IGNORE)
  assert dict(frame.schema) == {
    'label': pl.UInt8,
    'price': pl.Float64,
    'user': pl.Int64,
    'site': pl.UInt32,
    'word': pl.String,
    'tags': pl.List(pl.Int64),
    'tags.weights': pl.List(pl.Float32),
    'weight': pl.Float32,
    'time': pl.Int64,
    NUMBER: pl.UInt32,
  }
  assert frame.row(0)[:7] == ROW[:7]


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'click': '2'}, ['column click', 'bad label', "'2'", '0 or 1']),
    ({'click': ''}, ['column click', 'nothing']),
    ({'price': 'NaN'}, ['column price', "'NaN'", 'finite number']),
    ({'price': '-3'}, ['column price', "'-3'", 'above -3']),
    ({'user': '7.0'}, ['column user', "'7.0'", 'integer']),
    ({'site': '1ff00ff00'}, ['column site', '1 to 8 hex digits']),
    ({'tags': '3||4'}, ['column tags', 'each an integer']),
    ({'tags': '3|4'}, ['column scores', 'for each of tags']),
    ({'hour': ''}, ['column hour', 'nothing', 'an integer of 64 bits']),
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
  monkeypatch.setattr(criteo_files, 'CHUNK_BYTES', 300)
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
