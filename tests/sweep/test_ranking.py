"""The ranking of points: order, spreads, table, JSON, picture."""

import json
import math

import pytest

from dlrm_jax import files
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.sweep.grid import Point
from dlrm_jax.sweep.picture import picture
from dlrm_jax.sweep.ranking import (
  Ranked,
  Sweep,
  as_json,
  in_order,
  markdown,
)

AUC = Objective('auc', True)


def ranked(rate, aucs, failures=None, dim=4):
  scores = {s: {'auc': a, 'log_loss': 1 - a} for s, a in enumerate(aucs)}
  point = Point((('optimizer.learning_rate', rate), ('model.dim', dim)))
  return Ranked(point, 1000, scores, failures or {}, 2.5)


GOOD = ranked(0.1, [0.80, 0.82])
BETTER = ranked(0.2, [0.81, 0.83])
FAILED = ranked(0.3, [0.99], {1: 'the loss is nan'})
UNDEFINED = ranked(0.4, [math.nan, 0.9])
WAITING = ranked(0.5, [])


def sweep(*points, objective=AUC):
  ordered = in_order(points, objective)
  return Sweep('configs/a.py', 'log', objective, (0, 1), ordered)


def rates(found):
  return [point.point.settings[0][1] for point in found.points]


def test_failed_points_come_last_after_those_without_a_mean():
  found = sweep(FAILED, WAITING, GOOD, UNDEFINED, BETTER)
  assert rates(found) == [0.2, 0.1, 0.5, 0.4, 0.3]


def test_a_metric_may_be_better_when_it_is_low():
  losses = Objective('log_loss', False)
  assert rates(sweep(GOOD, BETTER, objective=losses)) == [0.2, 0.1]
  brier = ranked(0.1, [0.5]), ranked(0.2, [0.9])
  assert rates(sweep(*brier, objective=Objective('auc', False))) == [0.1, 0.2]


def test_the_table_has_ranks_spreads_and_counts_of_seeds():
  rows = [
    ' '.join(x.split()) for x in markdown(sweep(FAILED, GOOD)).split('\n')
  ]
  assert rows[-3:-1] == [
    '| `0.1` | `4` | 1 | 2 of 2 | 0.81000 ± 0.01414 | 0.19000 ± 0.01414 '
    '| 1,000 | 2.50 |',
    '| `0.3` | `4` | 2 | 1 of 2, 1 failed | 0.99000 | 0.01000 | 1,000 | 2.50 |',
  ]
  assert 'validation AUC over seeds 0, 1' in rows[0]


def test_json_has_means_deviations_and_reasons_of_failures():
  found = json.loads(files.to_json(as_json(sweep(GOOD, FAILED))))
  good, failed = found['points']
  assert good['settings'] == {'optimizer.learning_rate': 0.1, 'model.dim': 4}
  assert good['metrics']['auc']['mean'] == pytest.approx(0.81)
  deviation = good['metrics']['log_loss']['deviation']
  assert deviation == pytest.approx(math.sqrt(2e-4))
  assert good['runs'][1] == {'seed': 1, 'auc': 0.82, 'log_loss': 1 - 0.82}
  assert failed['failures'] == [{'seed': 1, 'why': 'the loss is nan'}]
  assert failed['metrics']['auc'] == {'mean': 0.99, 'deviation': None}


@pytest.mark.parametrize(
  'points',
  [
    [GOOD, BETTER],
    [FAILED, UNDEFINED, WAITING],
    [WAITING],
    [ranked('word', [0.5]), ranked(3, [0.5])],
    [GOOD._replace(point=Point(()))],
    [GOOD._replace(point=Point(tuple((f'f{i}', 1) for i in range(7))))],
  ],
  ids=['whole', 'failures', 'nothing yet', 'words', 'no field', 'many fields'],
)
def test_the_picture_can_always_be_drawn(points):
  assert picture(sweep(*points)).startswith(b'\x89PNG')
