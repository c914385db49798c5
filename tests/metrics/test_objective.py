"""The objective: which metric decides, and in which direction."""

import math

import numpy as np
import pytest

from dlrm_jax.build.objective import build_objective
from dlrm_jax.configs import default
from dlrm_jax.data.schema import Schema
from dlrm_jax.errors import InputError
from dlrm_jax.metrics import binary, ranking
from dlrm_jax.metrics.grouped import Examples, group_scores
from dlrm_jax.metrics.objective import HIGHER, Objective


def built(name, labels=('click',), grouped=False):
  config = default.get_config()
  config.train.objective = name
  return build_objective(config, Schema((), (), labels, grouped))


def scores(logits):
  """The metrics of an evaluation of one group, which is one list, too.

  Args:
    logits: of a positive and two candidates.
  """
  x, y = np.array(logits, np.float32), np.array([1, 0, 0], np.float32)
  ones = np.ones(3, np.float32)
  examples = Examples(ones.astype(np.int32), x, y, ones)
  tally = binary.tally(x, y, ones)._replace(within=group_scores(examples))
  places = ranking.places(x[None], ones[None])
  return binary.summarize(tally) | {
    # The top of so short a list is its first place.
    name.replace('_1', '_10'): value
    for name, value in ranking.summarize(places, 1).items()
  }


def test_every_objective_is_a_metric_of_an_evaluation():
  assert HIGHER.keys() <= scores([2.0, -1, 0]).keys()


def test_directions_are_those_of_the_metrics():
  worse, better = scores([-2.0, 1, 2]), scores([3.0, -3, -3])
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
