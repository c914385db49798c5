import itertools
import math

import numpy as np
import pytest

from dlrm_jax.metrics import ranking
from dlrm_jax.metrics.binary import NotFinite


def reference(positive, rivals, k):
  """HR@k, NDCG@k and MRR: the mean over all orders of the tied items."""
  above = sum(x > positive for x in rivals)
  tied = sum(x == positive for x in rivals)
  found = []
  for order in itertools.permutations(range(tied + 1)):
    place = above + 1 + order.index(0)
    top = place <= k
    found.append((top, top / math.log2(1 + place), 1 / place))
  return np.mean(found, 0)


@pytest.mark.parametrize('k', [1, 3, 10])
def test_metrics_are_those_of_the_reference_with_ties(k):
  rng = np.random.default_rng(k)
  scores = rng.integers(0, 8, (60, 15)).astype(np.float32)
  weights = (rng.random((60, 15)) < 0.9).astype(np.float32)
  expected = []
  for row, weight in zip(scores, weights, strict=True):
    if weight[0]:
      rivals = row[1:][weight[1:] > 0].tolist()
      if sum(x == row[0] for x in rivals) > 5:
        continue
      expected.append(reference(row[0], rivals, k))
  few = ranking.places(scores, weights)
  few = few._replace(counted=few.counted & (few.tied <= 5))
  found = ranking.summarize(few, k)
  assert found['lists'] == len(expected) > 40
  names = [f'hr_{k}', f'ndcg_{k}', 'mrr']
  np.testing.assert_allclose([found[n] for n in names], np.mean(expected, 0))
  errors = np.std(expected, 0, ddof=1) / math.sqrt(len(expected))
  np.testing.assert_allclose([found[f'{n}_std_error'] for n in names], errors)


def test_the_order_of_candidates_never_decides():
  rng = np.random.default_rng(0)
  scores = rng.integers(0, 3, (20, 12)).astype(np.float32)
  ones = np.ones_like(scores)
  other = np.concatenate([scores[:, :1], scores[:, :0:-1]], 1)
  assert ranking.summarize(ranking.places(scores, ones)) == ranking.summarize(
    ranking.places(other, ones)
  )


def test_a_model_that_knows_nothing_gets_the_share_of_the_top():
  scores = np.zeros((5, 100), np.float32)
  found = ranking.summarize(ranking.places(scores, np.ones_like(scores)))
  assert found['hr_10'] == pytest.approx(0.1)


def test_no_list_has_no_metrics():
  scores = np.zeros((2, 3), np.float32)
  found = ranking.summarize(ranking.places(scores, np.zeros_like(scores)))
  assert found['lists'] == 0
  assert math.isnan(found['hr_10'])


def test_a_score_that_is_not_finite_is_an_error():
  scores = np.array([[1, np.nan], [1, 2]], np.float32)
  with pytest.raises(NotFinite, match='1 of 4 logits'):
    ranking.places(scores, np.ones_like(scores))
  weights = np.array([[1, 0], [1, 1]], np.float32)
  assert ranking.places(scores, weights).above.tolist() == [0, 1]
