import jax
import numpy as np
import pytest

from dlrm_jax.batch import PAD
from dlrm_jax.data.loader import (
  Reading,
  batch_shapes,
  evaluation_batches,
  stream_batches,
  training_batches,
)
from dlrm_jax.data.negatives import Negatives
from dlrm_jax.data.schema import BLOCK_ROWS, Block, Column, Schema, take
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
      labels=(ids % 2).astype(np.float32)[:, None],
      id_weights=ids[:, None].astype(np.float32) if self.id_weights else None,
    )


def ids(batches, count):
  return np.concatenate([next(batches).inputs.ids[:, 0] for _ in range(count)])


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
  # What is made ahead stays inside of these windows.
  reading = Reading(8192, lanes=2, window=64)
  next(training_batches(source, reading, first_step=64))
  assert len(source.read) <= 2 * (reading.window + 1)


def test_small_batches_that_cross_windows_and_epochs_are_those_of_large_ones():
  source = Numbered(3 * BLOCK_ROWS + 8)
  small = training_batches(source, Reading(8, window=1))
  large = training_batches(source, Reading(10_240, window=1))
  # A batch has its lanes one after the other.
  lanes = np.moveaxis(ids(small, 2560).reshape(2560, 8), 0, 1)
  np.testing.assert_array_equal(
    lanes.reshape(8, 2, 1280),
    np.moveaxis(ids(large, 2).reshape(2, 8, 1280), 0, 1),
  )


class Spoiled(Numbered):
  """Block 2 is not what it should be: `spoil` makes it."""

  schema = Schema(('x',), (Column('first', 10**9), Column('C2', 10**9, 2)))

  def __init__(self, examples, spoil):
    super().__init__(examples)
    self.spoil = spoil

  def __getitem__(self, block):
    made = super().__getitem__(block)
    made = made._replace(ids=np.repeat(made.ids, 3, axis=1))
    return self.spoil(made) if block == 2 else made


def wrong_id(value):
  def spoil(block):
    block.ids[7, 2] = value
    return block

  return spoil


def broken(block):
  raise InputError('block 2: damaged')


def in_order(source, out_of_range):
  return evaluation_batches(
    source, 1024, name='logs/day, split test', out_of_range=out_of_range
  )


def shuffled(source, out_of_range):
  reading = Reading(1024, window=1, out_of_range=out_of_range)
  return training_batches(source, reading, name='logs/day, split test')


def streamed(source, out_of_range):
  return stream_batches(
    (source[n] for n in range(len(source))),
    source.schema,
    1024,
    name='logs/day, split test',
    out_of_range=out_of_range,
  )


WAYS = pytest.mark.parametrize('read', [in_order, shuffled, streamed])


@WAYS
@pytest.mark.parametrize('value', [10**9, -2, 2**31 - 1, -(2**31)])
def test_an_id_out_of_range_is_named(read, value):
  batches = read(Spoiled(4 * BLOCK_ROWS, wrong_id(value)), 'stop')
  with pytest.raises(InputError) as error:
    ids(batches, 100)
  assert str(error.value).startswith(
    f'logs/day, split test, block 2: feature C2 has id {value} in example 7 '
    f'of the block; expected 0 ... 999999999.'
  )


@WAYS
def test_ids_out_of_range_become_the_unknown_row_and_are_counted(read):
  def spoil(block):
    block.ids[:5, 1] = 10**9
    block.ids[3, 2] = -7
    block.ids[9, 2] = PAD
    return block

  batches = read(Spoiled(4 * BLOCK_ROWS, spoil), 'unknown')
  counted = 0
  for _ in range(16):  # an epoch
    batch = next(batches)
    wrong = batch.inputs.ids[:, 1:] != batch.inputs.ids[:, :1]
    zeros = wrong & (batch.inputs.ids[:, 1:] == 0)
    assert (batch.inputs.ids[:, 1:][wrong & ~zeros] == PAD).all()
    counted += zeros.sum()
    assert batches.out_of_range == counted
  assert counted == 6


@pytest.mark.parametrize('read', [in_order, shuffled])
@pytest.mark.parametrize(
  ('spoil', 'message'),
  [
    (broken, 'block 2: damaged'),
    (lambda block: take(block, slice(9)), 'block 2: 9 examples, expected 4096'),
  ],
)
def test_a_bad_block_ends_the_batches_where_it_would_come(read, spoil, message):
  good = read(Spoiled(8 * BLOCK_ROWS, lambda block: block), 'stop')
  batches = read(Spoiled(8 * BLOCK_ROWS, spoil), 'stop')

  def compare():
    for batch in batches:
      np.testing.assert_array_equal(batch.inputs.ids, next(good).inputs.ids)

  with pytest.raises(InputError, match=message):
    compare()
  assert list(batches) == []


def test_weights_of_examples_come_along_and_pad_with_zero():
  class Weighted(Numbered):
    def __getitem__(self, block):
      made = super().__getitem__(block)
      return made._replace(weights=made.dense[:, 0] + 1)

  source = Weighted(BLOCK_ROWS + 10)
  every = [
    next(training_batches(source, Reading(512))),
    *evaluation_batches(source, 1000),
    *stream_batches((source[i] for i in range(2)), source.schema, 1000),
  ]
  for batch in every:
    np.testing.assert_array_equal(batch.weights, batch.inputs.ids[:, 0] + 1)


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
      assert batch.inputs.ids.shape == (1000 // processes, 1)
      assert (batch.inputs.ids[batch.weights == 0] == PAD).all()
      assert (batch.inputs.id_weights[batch.weights == 0] == 0).all()
      seen.append(batch.inputs.ids[batch.weights > 0, 0])
  np.testing.assert_array_equal(
    np.concatenate(seen), np.arange(source.examples)
  )


def test_streamed_blocks_are_padded_to_batches():
  source = Numbered(BLOCK_ROWS + 10)
  batches = list(
    stream_batches((source[i] for i in range(2)), source.schema, 1024)
  )
  assert [int(b.weights.sum()) for b in batches] == [1024] * 4 + [10]
  assert {b.labels.shape for b in batches} == {(1024, 1)}


def test_batches_are_float32_and_int32():
  batch = next(training_batches(Numbered(100, True), Reading(8)))
  inputs = batch.inputs
  assert inputs.ids.dtype == np.int32
  floats = inputs.dense, inputs.id_weights, batch.labels, batch.weights
  assert {x.dtype for x in floats} == {np.dtype(np.float32)}


@pytest.mark.parametrize('fields', [(), ('id_weights',), ('weights', 'group')])
def test_shapes_of_batches_are_known_from_one_block(fields):
  class Source(Numbered):
    def __getitem__(self, block):
      ids = super().__getitem__(block).ids
      values = {'id_weights': ids, 'weights': ids[:, 0], 'group': ids[:, 0]}
      types = {'id_weights': np.float32, 'weights': np.float32}
      more = {x: values[x].astype(types.get(x, np.int32)) for x in fields}
      return super().__getitem__(block)._replace(**more)

  source = Source(2 * BLOCK_ROWS)
  for reading in (Reading(64), Reading(64, negatives=Negatives(3, items=9))):
    batch = next(training_batches(source, reading))
    want = jax.tree.map(lambda x: (x.shape, x.dtype), batch)
    found = batch_shapes(source, 64)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == want


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


class Weighted(Numbered):
  """Bags of two ids; the second one of example 30 has a weight below 0."""

  schema = Schema(('x',), (Column('one', 10**9), Column('bag', 10**9, 2)))

  def __getitem__(self, block):
    found = super().__getitem__(block)
    weights = np.ones((len(found.labels), 3), np.float32)
    weights[30, 2] = -0.5
    ids = np.repeat(found.ids, 3, 1)
    return found._replace(ids=ids, id_weights=weights)


MEANS = [
  lambda source, means: training_batches(
    source, Reading(80), name='logs, split train', means=means
  ),
  lambda source, means: evaluation_batches(
    source, 80, name='logs, split train', means=means
  ),
  lambda source, means: stream_batches(
    [source[0]], source.schema, 80, name='logs, split train', means=means
  ),
]


@pytest.mark.parametrize('batches', MEANS)
def test_weights_below_zero_are_refused_where_they_are_means(batches):
  with pytest.raises(
    InputError,
    match=r'logs, split train, block 0: feature bag has an id of weight -0.5 '
    r'in example 30 .* config.tables.pooling=sum',
  ):
    next(batches(Weighted(800), ('bag',)))
  next(batches(Weighted(800), ('one',)))
