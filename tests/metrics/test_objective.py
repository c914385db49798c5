"""The objective: which metric decides, and in which direction."""

import math

import numpy as np
import pytest

from dlrm_jax.build.run import build_objective
from dlrm_jax.configs import default
from dlrm_jax.data.schema import Schema
from dlrm_jax.errors import InputError
from dlrm_jax.metrics import binary
from dlrm_jax.metrics.grouped import Examples, group_scores
from dlrm_jax.metrics.objective import HIGHER, Objective


def built(name, labels=('click',), grouped=False):
  config = default.get_config()
  config.train.objective = name
  return build_objective(config, Schema((), (), labels, grouped))


def scores(logits, labels):
  """The metrics of an evaluation whose examples are of one group."""
  x, y = np.array(logits, np.float32), np.array(labels, np.float32)
  ones = np.ones(len(labels), np.float32)
  examples = Examples(ones.astype(np.int32), x, y, ones)
  tally = binary.tally(x, y, ones)
  return binary.summarize(tally._replace(within=group_scores(examples)))


def test_every_objective_is_a_metric_of_an_evaluation():
  assert HIGHER.keys() <= scores([2.0, -1.0], [1, 0]).keys()


def test_directions_are_those_of_the_metrics():
  worse = scores([-2.0, 1, 2], [1, 0, 1])
  better = scores([3.0, -3, 3], [1, 0, 1])
  for name, higher in HIGHER.items():
    objective = Objective(name, higher)
    assert objective.gain(better[name]) > objective.gain(worse[name]), name


def test_an_undefined_metric_has_no_value():
  assert Objective().value({'auc': math.nan}) is None
  assert Objective().value({}) is None
  assert Objective('ne', higher=False).value({'ne': 0.5, 'auc': 1}) == 0.5


def test_a_config_names_the_metric_and_the_label():
  assert built('log_loss') == Objective('log_loss', higher=False)
  labels = 'click', 'like'
  assert built('auc', labels) == Objective('click/auc', higher=True)
  assert built('like/ne', labels) == Objective('like/ne', higher=False)
  assert built('like/ne', labels).label == 'like normalised entropy'


def test_an_objective_within_groups_needs_groups():
  assert built('wuauc', grouped=True) == Objective('wuauc', higher=True)
  with pytest.raises(InputError, match=r'have no groups.*data\.raw\.group'):
    built('wuauc')


@pytest.mark.parametrize('name', ['AUC', 'like/auc', ''])
def test_another_word_is_refused_by_name(name):
  with pytest.raises(InputError, match=r'config\.train\.objective'):
    built(name)
