"""A data set of TFDS gives the rows that were written into it."""

import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.readers import tfds_reader
from dlrm_jax.prepare.readers.formats import reader_of
from dlrm_jax.prepare.readers.reader import NUMBER

F = tfds.features
N = 30
RAW = {
  'format': 'tfds',
  'label': 'click',
  'dense': ['price'],
  'sparse': {
    'user': 'integer',
    'word': None,
    'x': {'column': 'inner/x', 'values': 'integer'},
  },
  'bags': {'tags': 'integer', 'words': {'hotness': 1}},
}


def example(i):
  return {
    'click': i % 3 == 0,
    'price': i / 2,
    'user': 2**40 + i,
    'word': f'é{i}' if i != 7 else b'\xff',
    'tags': list(range(i % 4)),
    'words': ['a', 'b'][: i % 3],
    'inner': {'x': i},
    'picture': np.zeros((2, 2), np.int64),
  }


def row(i):
  words = ['a'][: i % 3]
  return (i % 3 == 0, i / 2, 2**40 + i, f'é{i}', i, list(range(i % 4)), words)


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  VERSION = tfds.core.Version('1.0.0')
  name = 'clicks'

  def _info(self):
    features = {
      'click': np.bool_,
      'price': np.float32,
      'user': np.int64,
      'word': F.Text(),
      'tags': F.Sequence(np.int32),
      'words': F.Sequence(F.Text()),
      'inner': {'x': np.int64},
      'picture': F.Tensor(shape=(2, 2), dtype=np.int64),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=F.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(N), 'test': [(0, example(0))]}

  def _generate_examples(self, count):
    for i in range(count):
      yield i, example(i)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('tfds'))
  tfds.disable_progress_bar()
  builder = _Builder(data_dir=path, file_format='array_record')
  builder.download_and_prepare()
  return path


def read(path, bad='skip', **changes):
  reader = pickle.loads(pickle.dumps(reader_of(RAW | changes)))
  rows, found, digests = [], BadRows(bad), []
  for piece in reader.pieces(path):
    for frame in reader.read(piece, found, digests.append):
      rows += frame.drop(NUMBER).rows()
  return rows, found, digests


def test_rows_are_those_of_the_data_set(folder, monkeypatch):
  whole, bad, _ = read('clicks:train', data_dir=folder)
  assert sorted(whole, key=lambda r: r[4]) == [
    row(i) for i in range(N) if i != 7
  ]
  (kind, line) = bad.report()
  assert 'invalid UTF-8' in kind
  assert 'column word' in line
  monkeypatch.setattr(tfds_reader, 'FRAME_ROWS', 8)
  monkeypatch.setattr(tfds_reader, '_READ', 3)
  rows, again, digests = read('clicks:train', data_dir=folder)
  assert rows == whole
  assert list(again.report()) == [kind, line]
  assert len(set(digests)) == len(digests) == 11
  assert 'tensorflow' not in sys.modules


def test_inputs_may_be_splits_of_a_named_set(folder):
  said = {'name': 'clicks', 'data_dir': folder}
  assert read('test', **said)[0] == [row(0)]
  part = read('train[:50%]', **said)
  assert len(part[0]) + sum(part[1].counts.values()) == N // 2
  assert read('clicks:1.0.0:test', data_dir=folder)[0] == [row(0)]


def test_a_bad_row_is_named(folder):
  changes = {'label': 'inner/x', 'sparse': {'user': 'integer'}}
  with pytest.raises(InputError, match=r'row \d+, column inner/x: bad label'):
    read('clicks:train', 'stop', data_dir=folder, **changes)


@pytest.mark.parametrize(
  ('path', 'changes', 'words'),
  [
    ('clicks', {}, ['train, test', 'clicks:train']),
    ('clicks:dev', {}, ["split 'dev'", 'train, test']),
    ('click', {}, ['click: TFDS finds no such data set', 'not found']),
    ('clicks:test', {'label': 'clik'}, ["'clik'", "'click'"]),
    ('clicks:test', {'dense': ['picture']}, ["no column 'picture'"]),
    (
      'clicks:test',
      {'label': 'tags', 'bags': {}},
      ["'tags' is List(Int64)", 'labels'],
    ),
    ('clicks:test', {'time': 'tags'}, ["'tags' is List(Int64)", 'dates']),
    ('clicks:test', {'separator': ','}, ["unknown key 'separator'"]),
    ('clicks:test', {'data_dir': 3}, ['data_dir is 3']),
    (':test', {}, ['--input=:test', 'NAME']),
  ],
)
def test_a_mistake_is_one_clear_line(folder, path, changes, words):
  with pytest.raises(InputError) as error:
    read(path, **{'data_dir': folder} | changes)
  assert '\n' not in str(error.value)
  for word in words:
    assert word in str(error.value), (word, str(error.value))


class Unprepared(tfds.core.GeneratorBasedBuilder):
  """Of one split, which may need TensorFlow."""

  VERSION = tfds.core.Version('1.0.0')
  needs = 'tensorflow'

  def _info(self):
    features = F.FeaturesDict({'click': np.int64, 'user': np.int64})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    if self.needs:
      raise ModuleNotFoundError(f'No module named {self.needs}')
    yield 0, {'click': 1, 'user': 5}


def test_a_set_is_prepared_where_it_can_be(tmp_path, monkeypatch):
  raw = {'format': 'tfds', 'label': 'click', 'sparse': {'user': 'integer'}}
  reader = reader_of(raw | {'data_dir': str(tmp_path)})
  with pytest.raises(InputError, match=r'unprepared is not in .*tensorflow'):
    reader.pieces('unprepared')
  monkeypatch.setattr(Unprepared, 'needs', '')
  (piece,) = reader.pieces('unprepared')
  (frame,) = reader.read(piece, BadRows(), bytes)
  assert frame.drop(NUMBER).rows() == [(1, 5)]


def test_a_damaged_file_is_named(tmp_path):
  builder = _Builder(data_dir=str(tmp_path), file_format='array_record')
  builder.download_and_prepare()
  (file,) = builder.data_path.glob('*test*')
  for damage in (lambda: file.write_bytes(b'no records'), file.unlink):
    damage()
    with pytest.raises(InputError, match=r'^clicks.*(expected|prepare)'):
      read('clicks:test', data_dir=str(tmp_path))
