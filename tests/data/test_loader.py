import numpy as np
import pytest

from dlrm_jax.batch import PAD
from dlrm_jax.data.loader import (
  Reading,
  evaluation_batches,
  stream_batches,
  training_batches,
)
from dlrm_jax.data.schema import BLOCK_ROWS, Block, Column, Schema
from dlrm_jax.errors import InputError


class Numbered:
  """Example i has id i; counts which blocks were read."""

  schema = Schema(('x',), (Column('id', 10**9),))

  def __init__(self, examples, id_weights=False):
    self.examples = examples
    self.id_weights = id_weights
    self.read = []

  def __len__(self):
    return -(-self.examples // BLOCK_ROWS)

  def __getitem__(self, block):
    self.read.append(block)
    first = block * BLOCK_ROWS
    ids = np.arange(first, min(first + BLOCK_ROWS, self.examples))
    ids = ids.astype(np.int32)
    return Block(
      dense=ids[:, None].astype(np.float32),
      ids=ids[:, None],
      labels=(ids % 2).astype(np.float32),
      id_weights=ids[:, None].astype(np.float32) if self.id_weights else None,
    )


def ids(batches, count):
  return np.concatenate([next(batches).ids[:, 0] for _ in range(count)])


@pytest.mark.parametrize('examples', [800, 5 * BLOCK_ROWS, 3 * BLOCK_ROWS + 8])
def test_an_epoch_is_every_example_once(examples):
  batches = training_batches(Numbered(examples), Reading(80, window=1))
  seen = ids(batches, examples // 80)
  assert len(set(seen)) == len(seen)
  # What is left of the epoch opens the next batch.
  assert set(seen) | set(ids(batches, 1)) >= set(range(examples))


def test_order_is_a_function_of_seed_and_epoch():
  source = Numbered(6 * BLOCK_ROWS)
  steps = source.examples // 4096

  def order(seed):
    return ids(training_batches(source, Reading(4096, seed=seed)), 2 * steps)

  first = order(1)
  np.testing.assert_array_equal(first, order(1))
  assert (first != order(2)).any()
  one, two = np.split(first, 2)
  assert (one != two).any()
  np.testing.assert_array_equal(np.sort(one), np.sort(two))


def test_examples_of_different_blocks_are_mixed():
  batch = ids(training_batches(Numbered(8 * BLOCK_ROWS), Reading(512)), 1)
  assert len(set(batch // BLOCK_ROWS)) > 4


@pytest.mark.parametrize('step', [1, 7, 30])
def test_a_batch_does_not_need_the_ones_before_it(step):
  examples = 4 * BLOCK_ROWS + 100
  batches = training_batches(Numbered(examples), Reading(1024))
  want = ids(batches, step + 1)[-1024:]
  late = training_batches(Numbered(examples), Reading(1024), first_step=step)
  np.testing.assert_array_equal(ids(late, 1), want)


def test_starting_late_reads_no_more_than_its_windows():
  source = Numbered(1000 * BLOCK_ROWS)
  reading = Reading(64, lanes=2, window=3)
  next(training_batches(source, reading, first_step=20_000))
  assert len(source.read) <= 2 * 2 * (reading.window + 1)


@pytest.mark.parametrize('processes', [2, 4])
def test_processes_share_the_global_batch(processes):
  source, reading = Numbered(5 * BLOCK_ROWS + 9), Reading(256)
  whole = training_batches(source, reading)
  parts = [
    training_batches(source, reading, process=p, processes=processes)
    for p in range(processes)
  ]
  for _ in range(5):
    together = np.concatenate([ids(part, 1) for part in parts])
    np.testing.assert_array_equal(together, ids(whole, 1))


@pytest.mark.parametrize('processes', [1, 2])
def test_evaluation_counts_every_example_once_in_order(processes):
  source = Numbered(2 * BLOCK_ROWS + 5, id_weights=True)
  streams = [
    evaluation_batches(source, 1000, p, processes) for p in range(processes)
  ]
  seen = []
  for parts in zip(*streams, strict=True):
    for batch in parts:
      assert batch.ids.shape == (1000 // processes, 1)
      assert (batch.ids[batch.weights == 0] == PAD).all()
      assert (batch.id_weights[batch.weights == 0] == 0).all()
      seen.append(batch.ids[batch.weights > 0, 0])
  np.testing.assert_array_equal(
    np.concatenate(seen), np.arange(source.examples)
  )


def test_streamed_blocks_are_padded_to_batches():
  source = Numbered(BLOCK_ROWS + 10)
  batches = list(stream_batches((source[i] for i in range(2)), 1024))
  assert [int(b.weights.sum()) for b in batches] == [1024] * 4 + [10]
  assert {b.labels.shape for b in batches} == {(1024,)}


def test_batches_are_float32_and_int32():
  batch = next(training_batches(Numbered(100, True), Reading(8)))
  assert [x.dtype for x in batch] == [
    np.float32, np.int32, np.float32, np.float32, np.float32
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: Reading(100), 'batch_size 100: must be a positive multiple'),
    (lambda: Reading(8, window=0), 'window 0'),
    (
      lambda: training_batches(Numbered(100), Reading(8), processes=3),
      'multiple of the 3 processes',
    ),
    (lambda: training_batches(Numbered(7), Reading(8)), '7 examples'),
  ],
)
def test_impossible_readings_are_refused(make, message):
  with pytest.raises(InputError, match=message):
    make()
