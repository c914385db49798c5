"""Comparisons of runs of several labels."""

import numpy as np
import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.metrics.paired import Scored
from dlrm_jax.run.comparison import Compared, compare


def compared(name, labels):
  rng = np.random.default_rng(len(name))
  clicks = np.float32(np.arange(40) % 3 == 0)
  scored = Scored(rng.normal(size=40) + clicks, clicks, np.ones(40))
  return Compared(name, 1, scored, labels)


def test_the_label_that_is_compared_is_named_where_there_are_several():
  both = ['click', 'buy']
  lines, _ = compare('test', compared('a', both), compared('bb', both))
  assert 'label     click, the first of click, buy' in lines
  lines, _ = compare('test', compared('a', ['y']), compared('bb', ['y']))
  assert not any(line.startswith('label') for line in lines)


def test_runs_of_other_labels_are_refused():
  with pytest.raises(
    InputError, match='first label is buy, that of a is click'
  ):
    compare('test', compared('a', ['click']), compared('b', ['buy']))
