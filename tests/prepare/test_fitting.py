"""Values without a row, or a logarithm, make bad rows, whatever the format."""

import csv
import itertools

import polars as pl
import pytest

from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.errors import InputError
from dlrm_jax.prepare import known_ids, pipeline
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.criteo.settings import CriteoSettings
from dlrm_jax.prepare.fitting import Fit, fitting
from dlrm_jax.prepare.preparation import Settings, preparation_of
from dlrm_jax.prepare.readers import lines as raw_text
from dlrm_jax.prepare.readers import text_files
from dlrm_jax.prepare.readers.formats import reader_of
from dlrm_jax.prepare.readers.reader import PIECE_BYTES
from dlrm_jax.prepare.resources import default_memory
from tests.sets import prepare_criteo

N = 40
SCHEMA = {
  'label': 'y',
  'sparse': {'u': {'ids': 'rows', 'rows': 6}},
  'dense': {'p': 'log3'},
}
BAGS = {'label': 'y', 'bags': {'h': {'ids': 'rows', 'rows': 6}}}


def columns(**bad):
  """Columns of a log; of a name, values by row that are not like the others."""
  found = {
    'y': [i % 2 for i in range(N)],
    'u': [i % 6 for i in range(N)],
    'p': [i - 2 for i in range(N)],
    'h': [[i % 6, 1] for i in range(N)],
  }
  for name, values in bad.items():
    for row, value in values.items():
      found[name][row] = value
  return found


def write_csv(folder, found):
  path = folder / 'log.csv'
  texts = found | {'h': ['|'.join(map(str, bag)) for bag in found['h']]}
  with path.open('w', newline='') as file:
    out = csv.writer(file)
    out.writerow(texts)
    out.writerows(zip(*texts.values(), strict=True))
  return str(path)


def write_parquet(folder, found):
  path = folder / 'log.parquet'
  pl.DataFrame(found).write_parquet(path)
  return str(path)


WRITE = {'csv': write_csv, 'parquet': write_parquet}
UNIT = {'csv': ('line', 2), 'parquet': ('row', 1)}


def prepared(folder, raw, path, bad='skip', **fields):
  options = Settings('train=1', shuffle=False, on_bad_row=bad)
  job = preparation_of(reader_of(raw), {'all': [path]}, options, raw, **fields)
  pipeline.prepare_set(job, str(folder / 'set'), default_memory(), True)
  return open_prepared(folder / 'set')


def ids_of(blocks):
  return list(itertools.chain(*(block.ids.tolist() for block in blocks)))


def ids(made, split='train'):
  source = made.source(split)
  return ids_of(source[i] for i in range(len(source)))


@pytest.mark.parametrize('kind', WRITE)
@pytest.mark.parametrize(
  ('bad', 'value'), [({'u': {7: 6}}, '6'), ({'u': {7: -1}}, '-1')]
)
def test_an_id_that_is_no_row_is_named_and_skipped(tmp_path, kind, bad, value):
  raw = {'format': kind, **SCHEMA}
  path = WRITE[kind](tmp_path, columns(**bad))
  unit, first = UNIT[kind]
  expected = f'log.{kind}, {unit} {7 + first}, column u: .*: {value}; .*0 ... 5'
  with pytest.raises(InputError, match=expected):
    prepared(tmp_path, raw, path, 'stop')
  made = prepared(tmp_path, raw, path)
  assert made.splits == {'train': N - 1}
  assert made.details['bad_rows'] == {'id out of range': 1}


@pytest.mark.parametrize('value', [2**63, 2**63 + 5, 2**64 - 1])
def test_an_id_beyond_int64_is_named_as_it_is_written(tmp_path, value):
  path = write_csv(tmp_path, columns(u={7: value}, h={7: [1, value]}))
  for raw in (SCHEMA, BAGS):
    with pytest.raises(InputError, match=rf'id out of range: .*{value} or -'):
      prepared(tmp_path, {'format': 'csv', **raw}, path, 'stop')


@pytest.mark.parametrize('kind', WRITE)
def test_a_bag_with_an_id_that_is_no_row_is_a_bad_row(tmp_path, kind):
  raw = {'format': kind, **BAGS}
  path = WRITE[kind](tmp_path, columns(h={3: [5, 9, 1], 5: []}))
  unit, first = UNIT[kind]
  expected = f'{unit} {3 + first}, column h: id out of range: .5, 9, 1.;'
  with pytest.raises(InputError, match=expected):
    prepared(tmp_path, raw, path, 'stop')
  assert prepared(tmp_path, raw, path).splits == {'train': N - 1}


def test_a_line_of_libsvm_with_an_id_that_is_no_row_is_a_bad_row(tmp_path):
  path = tmp_path / 'log.svm'
  path.write_text('1 3:1\n0 2:1\n1 6:1 2:1\n0 1:1\n')
  raw = {'format': 'libsvm', 'ids': 'rows', 'rows': 6}
  with pytest.raises(InputError, match=r'log.svm, line 3, column features'):
    prepared(tmp_path, raw, str(path), 'stop')
  assert prepared(tmp_path, raw, str(path)).splits == {'train': 3}


def test_criteo_rows_without_a_logarithm_are_named_and_skipped(tmp_path):
  row = '\t'.join(['1', *['3'] * 13, *['68fd1e64'] * 26])
  bad = row.replace('\t3\t', '\t-3\t', 1)
  path = tmp_path / 'train.txt'
  path.write_text('\n'.join([row, 'broken', row, bad, row, '']))
  inputs = {'all': [str(path)]}

  def made(bad):
    options = CriteoSettings('torchrec', splits='train=1', on_bad_row=bad)
    return prepare_criteo(inputs, str(tmp_path / 'set'), options)

  path.write_text('\n'.join([row, row, row, bad, row, '']))
  with pytest.raises(InputError, match=r'train.txt, line 4, column I1: .*: -3'):
    made('stop')
  path.write_text('\n'.join([row, 'broken', row, bad, row, '']))
  found = made('skip')
  assert found.splits == {'train': 3}
  (line,) = [x for x in found.details['skipped'] if 'line 4' in x]
  assert 'column I1: no logarithm of x + 3: -3' in line


def test_lines_are_those_of_the_file_in_every_piece(tmp_path, monkeypatch):
  monkeypatch.setattr(raw_text, 'PIECE_BYTES', 64)
  assert PIECE_BYTES != 64
  bad = {1: 6, 17: -5, 39: 7}
  path = write_csv(tmp_path, columns(u=bad, y={16: 'x'}))
  reader = reader_of({'format': 'csv', **SCHEMA})
  pieces = reader.pieces(path)
  assert len(pieces) > 3
  found = BadRows('skip')
  rows = sum(
    frame.height
    for piece in pieces
    for frame in fitting(reader, piece, found, len, Fit(reader.columns))
  )
  assert rows == N - 4
  lines = [text.split(',')[1] for text in found.examples['id out of range']]
  assert lines == [f' line {row + 2}' for row in bad]


@pytest.fixture
def set_of_bags(tmp_path):
  raw = {
    'format': 'csv',
    'label': 'y',
    'bags': {'h': {'values': 'integer'}},
  }
  path = write_csv(tmp_path, columns())
  return prepared(tmp_path, raw, path), tmp_path


def test_a_longer_bag_than_training_had_is_cut_and_counted(set_of_bags):
  known, folder = set_of_bags
  (folder / 'new').mkdir()
  path = write_csv(folder / 'new', columns(h={4: [3, 1, 2, 5], 6: [1, 1, 1]}))
  bad = BadRows()
  read = ids_of(known_ids.read_raw(known, [path], bad=bad))
  want = ids(known)
  assert (read[0], read[4], read[6][1]) == (want[0], want[3], want[0][1])
  assert list(bad.report()) == [
    '2 x bag of h cut to its first 2 ids, the most in training'
  ]
  job = known_ids.preparation_with(
    known, {'test': [path]}, Settings(None, shuffle=False)
  )
  pipeline.prepare_set(job, str(folder / 'lent'), default_memory())
  lent = open_prepared(folder / 'lent')
  assert ids(lent, 'test') == read
  assert lent.details['skipped'] == list(bad.report())


@pytest.mark.parametrize('kind', WRITE)
def test_ids_out_of_range_become_row_0_where_the_config_says_so(tmp_path, kind):
  raw = {'format': kind, **SCHEMA}
  made = prepared(tmp_path, raw, WRITE[kind](tmp_path, columns()))
  (tmp_path / 'new').mkdir()
  path = WRITE[kind](tmp_path / 'new', columns(u={3: 6, 9: -2}, p={5: -3}))
  bad = BadRows('skip')
  read = ids_of(known_ids.read_raw(made, [path], 'skip', bad, 'unknown'))
  assert (len(read), read[3], read[8], read[4]) == (N - 1, [0], [0], [4])
  assert next(bad.report()) == '2 x id of u out of range, which became row 0'
  assert bad.counts.total() == 1
  again = prepared(tmp_path, raw, path, out_of_range='unknown')
  assert ids(again) == read


def test_bags_may_have_ids_out_of_range_too(tmp_path):
  raw = {'format': 'csv', **BAGS}
  path = write_csv(tmp_path, columns(h={3: [5, 9, -1], 5: []}))
  made = prepared(tmp_path, raw, path, out_of_range='unknown')
  assert ids(made)[3] == [5, 0, 0]
  changed = '2 x id of h out of range, which became row 0'
  assert made.details['skipped'] == [changed]


def criteo_row(last):
  return '\t'.join(['1', *['3'] * 13, *['68fd1e64'] * 25, last])


def test_a_value_that_a_closed_vocabulary_lacks_is_a_bad_row(tmp_path):
  log, new = tmp_path / 'log', tmp_path / 'new'
  log.write_text('\n'.join(map(criteo_row, ['a', 'b', 'c'])))
  new.write_text('\n'.join(map(criteo_row, ['c', 'd', 'a'])))
  options = CriteoSettings('fb', splits='train=1', shuffle=False)
  known = prepare_criteo({'all': [str(log)]}, str(tmp_path / 'set'), options)

  def job(bad):
    options = Settings(None, shuffle=False, on_bad_row=bad)
    return known_ids.preparation_with(known, {'test': [str(new)]}, options)

  expected = 'new, line 2, column C26: unknown id: 0000000d; .* together'
  with pytest.raises(InputError, match=expected):
    pipeline.prepare_set(job('stop'), str(tmp_path / 'lent'), default_memory())
  pipeline.prepare_set(job('skip'), str(tmp_path / 'lent'), default_memory())
  assert [row[25] for row in ids(open_prepared(tmp_path / 'lent'), 'test')] == [
    2,
    0,
  ]
  bad = BadRows()
  read = ids_of(known_ids.read_raw(known, [str(new)], 'stop', bad, 'unknown'))
  assert [row[25] for row in read] == [2, 0, 0]
  assert list(bad.report()) == [
    '1 x id of C26 out of range, which became row 0'
  ]


def write_labels(folder, labels):
  (folder / 'log.svm').write_text(''.join(f'{x} 1:1\n' for x in labels))
  (folder / 'log.csv').write_text(
    ''.join(['y,u\n', *(f'{x},a\n' for x in labels)])
  )


LABELS = {
  'csv': {'format': 'csv', 'label': 'y', 'sparse': ['u']},
  'svm': {'format': 'libsvm'},
}


@pytest.mark.parametrize('kind', LABELS)
def test_minus_1_is_0_where_no_other_label_is(tmp_path, kind):
  write_labels(tmp_path, [-1, 1, -1.0, 1])
  made = prepared(tmp_path, LABELS[kind], str(tmp_path / f'log.{kind}'))
  assert made.source('train')[0].labels[:, 0].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize('kind', LABELS)
@pytest.mark.parametrize('chunk', [8, 1 << 20])
@pytest.mark.parametrize('piece', [32, 1 << 20])
def test_minus_1_beside_0_is_refused_wherever_they_are(
  tmp_path, monkeypatch, kind, chunk, piece
):
  write_labels(tmp_path, [-1, 1] * 10 + [0, 1] * 10)
  path = str(tmp_path / f'log.{kind}')
  monkeypatch.setattr(text_files, 'CHUNK_BYTES', chunk)
  monkeypatch.setattr(raw_text, 'PIECE_BYTES', piece)
  expected = rf'log.{kind}.*: a label is -1, and in .*log.{kind}.* one is 0;'
  for bad in ('stop', 'skip'):
    with pytest.raises(InputError, match=expected):
      prepared(tmp_path, LABELS[kind], path, bad)


def test_a_log_that_is_read_in_a_stream_is_refused_too(tmp_path):
  raw, path = LABELS['csv'], str(tmp_path / 'log.csv')
  write_labels(tmp_path, [-1, 1])
  made = prepared(tmp_path, raw, path)
  write_labels(tmp_path, [-1, 1, 0])
  with pytest.raises(InputError, match=r'log.csv, column y: a label is -1'):
    list(known_ids.read_raw(made, [path]))
