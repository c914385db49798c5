import numpy as np
import pytest

from dlrm_jax.data.loader import Reading, training_batches
from dlrm_jax.data.negatives import Negatives
from dlrm_jax.data.schema import BLOCK_ROWS, Block, Column, Schema
from dlrm_jax.errors import InputError

ITEMS = 50


class Pairs:
  """Users 0, 1, 2 ..., who all have item 7."""

  schema = Schema((), (Column('user', 10**6), Column('item', 1 + ITEMS)))

  def __init__(self, examples):
    self.examples = examples

  def __len__(self):
    return -(-self.examples // BLOCK_ROWS)

  def __getitem__(self, number):
    first = number * BLOCK_ROWS
    users = np.arange(first, min(first + BLOCK_ROWS, self.examples))
    ids = np.stack([users, np.full_like(users, 7)], 1).astype(np.int32)
    dense = np.empty((len(ids), 0), np.float32)
    return Block(dense, ids, np.ones((len(ids), 1), np.float32))


def reading(count=3, batch_size=160, seed=0):
  negatives = Negatives(count, column=1, first=1, items=ITEMS)
  return Reading(batch_size, seed=seed, negatives=negatives)


def test_each_positive_is_followed_by_negatives_of_its_user():
  batch = next(training_batches(Pairs(1000), reading()))
  ids = batch.inputs.ids.reshape(40, 4, 2)
  assert (ids[:, :, 0] == ids[:, :1, 0]).all()
  assert len(set(ids[:, 0, 0])) == 40
  assert (ids[:, 0, 1] == 7).all()
  labels = batch.labels.reshape(40, 4)
  assert (labels == [1, 0, 0, 0]).all()
  assert batch.weights.shape == (160,)


def test_the_positives_are_those_of_training_without_negatives():
  with_some = training_batches(Pairs(1000), reading())
  without = training_batches(Pairs(1000), Reading(40))
  for _ in range(30):
    users = next(with_some).inputs.ids[::4, 0]
    np.testing.assert_array_equal(users, next(without).inputs.ids[:, 0])


def test_items_are_drawn_uniformly_over_the_catalogue():
  batches = training_batches(Pairs(4000), reading(3, 3200))
  drawn = [
    next(batches).inputs.ids.reshape(-1, 4, 2)[:, 1:, 1] for _ in range(50)
  ]
  counts = np.bincount(np.concatenate(drawn).reshape(-1), minlength=1 + ITEMS)
  assert counts[0] == 0
  expected = counts.sum() / ITEMS
  chi_square = np.sum(np.square(counts[1:] - expected) / expected)
  assert abs(chi_square - (ITEMS - 1)) < 5 * np.sqrt(2 * (ITEMS - 1))


def test_negatives_are_other_ones_in_each_epoch_and_for_each_seed():
  def epochs(seed):
    batches = training_batches(Pairs(800), reading(3, 3200, seed))
    found = []
    for _ in range(2):
      ids = next(batches).inputs.ids.reshape(-1, 4, 2)
      found.append(ids[np.argsort(ids[:, 0, 0]), 1:, 1])
    return found

  first, second = epochs(0)
  same = [np.mean(first == other) for other in (second, epochs(1)[0])]
  assert all(share < 0.06 for share in same)  # by chance 0.02


@pytest.mark.parametrize('processes', [2, 4])
def test_negatives_depend_neither_on_processes_nor_on_resuming(processes):
  whole = training_batches(Pairs(1000), reading())
  parts = [
    training_batches(Pairs(1000), reading(), 5, process, processes)
    for process in range(processes)
  ]
  for _ in range(5):
    next(whole)
  for _ in range(20):
    ids = np.concatenate([next(part).inputs.ids for part in parts])
    np.testing.assert_array_equal(ids, next(whole).inputs.ids)


def test_a_batch_has_whole_groups_from_each_lane():
  with pytest.raises(InputError, match=r'8 lanes .* times 1 \+ the 3 neg'):
    reading(3, 80)
