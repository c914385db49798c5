"""The objective: which metric decides, and in which direction."""

import math

import numpy as np
import pytest

from dlrm_jax.build.run import build_objective
from dlrm_jax.configs import default
from dlrm_jax.data.schema import Schema
from dlrm_jax.errors import InputError
from dlrm_jax.metrics import binary, ranking
from dlrm_jax.metrics.objective import HIGHER, Objective


def built(name, labels=('click',)):
  config = default.get_config()
  config.train.objective = name
  return build_objective(config, Schema((), (), labels))


def metrics(logits):
  """Metrics of a list of a positive and two candidates."""
  labels, ones = [1, 0, 0], [1, 1, 1]
  found = ranking.places(np.array([logits]), np.array([ones]))
  tally = binary.tally(logits, labels, ones)
  return binary.summarize(tally) | ranking.summarize(found, 1)


def test_every_objective_is_a_metric_of_an_evaluation():
  lists = ranking.summarize(ranking.places(np.ones((1, 3)), np.ones((1, 3))))
  assert HIGHER.keys() <= metrics([2.0, -1, 0]).keys() | lists.keys()


def test_directions_are_those_of_the_metrics():
  worse, better = metrics([-2.0, 1, 2]), metrics([3.0, -3, -3])
  for name, higher in HIGHER.items():
    name = name.replace('_10', '_1')  # the top of so short a list
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


@pytest.mark.parametrize('name', ['AUC', 'like/auc', ''])
def test_another_word_is_refused_by_name(name):
  with pytest.raises(InputError, match=r'config\.train\.objective'):
    built(name)
