"""Prepared sets: what is written is read; only whole sets can be opened."""

import concurrent.futures
import dataclasses
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dlrm_jax.data import prepared, shards
from dlrm_jax.data.loader import (
  Reading,
  evaluation_batches,
  stream_batches,
  training_batches,
)
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.rebatch import rebatch
from dlrm_jax.data.schema import BLOCK_ROWS, Block, Column, Schema, join, take
from dlrm_jax.errors import InputError
from tests.sets import write_set

SCHEMA = Schema(('a', 'b'), (Column('x', 9), Column('y', 50, hotness=3)))


def _block(rows, seed=0, weighted=False):
  rng = np.random.default_rng(seed)
  return Block(
    rng.standard_normal((rows, 2)).astype(np.float32),
    rng.integers(-1, 9, (rows, 4)).astype(np.int32),
    (rng.random((rows, 1)) < 0.3).astype(np.float32),
    rng.random((rows, 4)).astype(np.float32) if weighted else None,
  )


def _cut(block, sizes):
  start = 0
  for size in sizes:
    yield take(block, slice(start, start + size))
    start += size


def _make(output, train, test, details=None):
  return write_set(output, SCHEMA, {'train': train, 'test': test}, details)


def _same(a, b):
  for x, y in zip(a, b, strict=True):
    if x is None:
      assert y is None
    else:
      assert x.dtype == y.dtype
      np.testing.assert_array_equal(x, y)


def test_several_labels_and_groups_are_written_and_read(tmp_path):
  labels = np.array([[1, np.nan], [0, 1], [np.nan, 0]], np.float32)
  group = np.array([7, -1, 2**31 - 2], np.int32)
  block = _block(3)._replace(labels=labels, group=group)
  schema = dataclasses.replace(SCHEMA, labels=('a', 'b'), grouped=True)
  prepared = write_set(tmp_path / 'set', schema, {'train': block})
  assert open_prepared(tmp_path / 'set').schema == schema
  _same(prepared.source('train')[0], block)
  batches = evaluation_batches(prepared.source('train'), 4)
  (batch,) = batches
  assert batch.inputs.group.tolist() == [*group, -1]
  (batch,) = stream_batches([block], schema, 4)
  assert batch.inputs.group.tolist() == [*group, -1]
  reading = Reading(8, lanes=1)
  batch = next(training_batches(prepared.source('train'), reading))
  of = dict(zip(group.tolist(), labels[:, 0].tolist(), strict=True))
  for number, label in zip(batch.inputs.group, batch.labels[:, 0], strict=True):
    np.testing.assert_equal(label, of[int(number)])


@pytest.mark.parametrize('weighted', [False, True])
def test_what_is_written_is_read(tmp_path, weighted):
  train, test = _block(10000, 1, weighted), _block(7, 2, weighted)
  prepared = _make(tmp_path / 'set', train, test, {'kind': 'made'})
  assert prepared.schema == SCHEMA
  assert prepared.splits == {'train': 10000, 'test': 7}
  assert prepared.clicks['train'] == train.labels.sum()
  assert prepared.details == {'kind': 'made'}
  source = prepared.source('train')
  blocks = [source[i] for i in range(len(source))]
  assert [len(b.labels) for b in blocks] == [BLOCK_ROWS, BLOCK_ROWS, 1808]
  _same(join(blocks), train)
  _same(prepared.source('test')[0], test)


def test_order_holds_over_many_files(tmp_path, monkeypatch):
  rows = 300 * BLOCK_ROWS + 5
  # Two words an example: two files.
  monkeypatch.setattr(shards, 'SHARD_BYTES', 8 * 256 * BLOCK_ROWS)
  labels = np.zeros((rows, 1), np.float32)
  schema = Schema((), (Column('x', rows),))
  ids = np.arange(rows, dtype=np.int32)[:, None]
  block = Block(np.empty((rows, 0), np.float32), ids, labels)
  source = write_set(tmp_path / 'set', schema, {'train': block}).source('train')
  assert len(source) == 301
  assert len(list((tmp_path / 'set').glob('*.array_record-*'))) == 2
  found = np.concatenate([source[i].ids for i in range(len(source))])
  np.testing.assert_array_equal(found, ids)
  assert source[0].dense.shape == (BLOCK_ROWS, 0)


def test_any_number_of_threads_may_read(tmp_path):
  train = _block(5 * BLOCK_ROWS)
  source = _make(tmp_path / 'set', train, _block(1)).source('train')
  order = np.random.default_rng(0).integers(0, 5, 100).tolist()
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for i, block in zip(
      order, pool.map(source.__getitem__, order), strict=True
    ):
      rows = slice(i * BLOCK_ROWS, (i + 1) * BLOCK_ROWS)
      _same(block, take(train, rows))


def test_rebatching_keeps_every_row_in_order():
  block = _block(1000)
  for sizes in ([1000], [1] * 1000, [0, 499, 501], [3, 900, 97]):
    blocks = list(rebatch(_cut(block, sizes), 100))
    assert [len(b.labels) for b in blocks] == [100] * 10
    _same(join(blocks), block)


def test_equal_content_has_an_equal_fingerprint(tmp_path):
  train, test = _block(100), _block(10)
  first = _make(tmp_path / 'a', train, test)
  assert _make(tmp_path / 'b', train, test).fingerprint == first.fingerprint
  other = _make(tmp_path / 'c', train, test, {'kind': 'other'})
  assert other.fingerprint != first.fingerprint


def test_an_unknown_split_lists_those_there_are(tmp_path):
  prepared = _make(tmp_path / 'set', _block(10), _block(10))
  with pytest.raises(InputError, match="no split 'dev'; it has train, test"):
    prepared.source('dev')


def test_a_folder_without_a_set_is_refused(tmp_path):
  for folder in (tmp_path, tmp_path / 'absent'):
    with pytest.raises(InputError, match='is not a prepared set'):
      open_prepared(folder)


@pytest.mark.parametrize(
  ('file', 'how'),
  [
    ('dataset_info.json', 'remove'),
    ('dataset_info.json', 'cut'),
    ('metadata.json', 'cut'),
    ('click_log-train.array_record-00000-of-00001', 'remove'),
    ('click_log-train.array_record-00000-of-00001', 'cut'),
  ],
)
def test_a_damaged_set_is_refused(tmp_path, file, how):
  _make(tmp_path / 'set', _block(5000), _block(10))
  path = tmp_path / 'set' / file
  if how == 'remove':
    path.unlink()
  else:
    path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(InputError, match='damaged'):
    open_prepared(tmp_path / 'set')


def test_damage_inside_a_file_is_found_when_it_is_read(tmp_path):
  _make(tmp_path / 'set', _block(5000), _block(10))
  path = tmp_path / 'set' / 'click_log-train.array_record-00000-of-00001'
  data = bytearray(path.read_bytes())
  data[1000:2000] = bytes(1000)
  path.write_bytes(data)
  source = open_prepared(tmp_path / 'set').source('train')
  with pytest.raises(InputError, match='damaged'):
    [source[i] for i in range(len(source))]


def test_another_format_is_refused(tmp_path):
  _make(tmp_path / 'set', _block(10), _block(10))
  path = tmp_path / 'set' / 'metadata.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'format': 99}))
  with pytest.raises(InputError, match='format 99'):
    open_prepared(tmp_path / 'set')


def test_tensorflow_and_jax_are_not_imported(tmp_path):
  _make(tmp_path / 'set', _block(10), _block(10))
  code = (
    'import sys; from dlrm_jax.data.prepared import open_prepared; '
    f'open_prepared({str(tmp_path / "set")!r}).source("train")[0]; '
    'assert not {"tensorflow", "jax"} & set(sys.modules)'
  )
  root = Path(__file__).resolve().parents[2]
  subprocess.run([sys.executable, '-c', code], check=True, cwd=root)


def test_a_limit_of_open_files_that_can_t_be_raised_stays(monkeypatch):
  """macOS refuses what lies above a limit of its own, which it does not say."""

  def refuse(*args):
    raise ValueError('not allowed to raise maximum limit')

  limit = resource.getrlimit(resource.RLIMIT_NOFILE)
  monkeypatch.setattr(resource, 'setrlimit', refuse)
  prepared._allow_files(limit[0])
  assert resource.getrlimit(resource.RLIMIT_NOFILE) == limit
