"""Which examples are taken of some data."""

import numpy as np
import pytest

from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.errors import InputError
from dlrm_jax.run import sample
from dlrm_jax.run.sample import take_sample


def batches(count, size, weights=None, labels=None):
  """Batches of examples whose dense feature is their number."""
  numbers = np.arange(count, dtype=np.float32)[:, None]
  weights = np.ones(count, np.float32) if weights is None else weights
  labels = np.zeros((count, 1), np.float32) if labels is None else labels
  for start in range(0, count, size):
    part = slice(start, start + size)
    ids = numbers[part].astype(np.int32)
    yield Batch(Inputs(numbers[part], ids), labels[part], weights[part])


def numbers(found):
  return found.examples.dense[:, 0].astype(int).tolist()


def test_of_few_examples_all_are_taken():
  found = take_sample(batches(10, 4), 10)
  assert numbers(found) == list(range(10))
  assert found.of == 10
  assert found.examples.id_weights is None


@pytest.mark.parametrize('most', [1, 7, 50, 99])
def test_of_many_examples_some_are_taken_evenly(most):
  found = take_sample(batches(1000, 64), most)
  assert len(numbers(found)) == most
  assert found.of == 1000
  steps = np.diff([*numbers(found), 1000])
  assert steps.min() >= 1000 / most / 2 - 1
  assert steps.max() <= 1000 / most * 2 + 1


def test_the_choice_does_not_depend_on_the_batches():
  found = [numbers(take_sample(batches(777, n), 50)) for n in (1, 13, 777)]
  assert found[0] == found[1] == found[2]


def test_examples_that_count_for_no_label_are_not_taken():
  weights = np.ones(9, np.float32)
  weights[2] = 0
  labels = np.zeros((9, 2), np.float32)
  labels[4], labels[5, 0] = np.nan, np.nan
  found = take_sample(batches(9, 4, weights, labels), 100)
  assert numbers(found) == [0, 1, 3, 5, 6, 7, 8]
  assert take_sample(batches(9, 4, 0 * weights), 100) is None
  assert take_sample([], 100) is None


def test_examples_that_do_not_fit_into_the_memory_are_refused(monkeypatch):
  monkeypatch.setattr(sample, 'free_memory', lambda: 500)
  assert take_sample(batches(100, 10), 10)
  with pytest.raises(InputError, match=r'--examples=90: the first 40 .*lower'):
    take_sample(batches(100, 10), 90)
