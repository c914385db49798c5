"""What batches add up to: calibration by group of predictions."""

import math

import numpy as np
import pytest

from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.losses import binary_cross_entropy
from dlrm_jax.run.scores import (
  GROUPS,
  calibration_groups,
  calibration_table,
)
from dlrm_jax.run.tallying import ScoreSums
from dlrm_jax.training.heads import Head

HEADS = tuple(Head(binary_cross_entropy, name) for name in ('click', 'like'))


def tallies(logits, labels, weights):
  """Tallies of examples that come in batches of 100."""
  sums = ScoreSums(HEADS, None)
  for start in range(0, len(weights), 100):
    part = slice(start, start + 100)
    batch = Batch(Inputs(None, None), labels[part], weights[part])
    sums.add(batch, logits[part])
  return sums.total().tallies


def wanted(logits, labels, weights):
  """Groups of equal weight, by sorting all examples."""
  known = ~np.isnan(labels) & (weights > 0)
  order = np.argsort(logits[known])
  p, y, w = (
    x[known][order].astype(np.float64)
    for x in (1 / (1 + np.exp(-logits)), labels, weights)
  )
  group = ((np.cumsum(w) - w / 2) / w.sum() * GROUPS).astype(int)
  for g in range(GROUPS):
    of = group == g
    predicted, actual = (np.average(x[of], weights=w[of]) for x in (p, y))
    ratio = predicted / actual if actual else math.nan
    yield [w[of].sum(), predicted, actual, ratio]


def test_calibration_groups_are_those_of_sorted_examples():
  """With weights, and labels that are missing; each task has its own."""
  rng, n = np.random.default_rng(0), 1_000
  steps = np.linspace(-7, 2, n, dtype=np.float32)
  logits = np.stack([rng.permutation(steps), rng.permutation(steps)], 1)
  labels = (rng.random((n, 2)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
  labels[rng.random((n, 2)) < 0.3] = np.nan
  weights = rng.choice(np.float32([0, 0.5, 1, 3]), n)
  for head, tally in enumerate(tallies(logits, labels, weights).values()):
    found = calibration_groups(tally)
    assert [*found[0]] == ['examples', 'predicted', 'actual', 'ratio']
    np.testing.assert_allclose(
      [list(group.values()) for group in found],
      [*wanted(logits[:, head], labels[:, head], weights)],
      rtol=1e-4,
    )


def test_what_is_undefined_is_said():
  labels = np.float32([[0, np.nan]] * 9)
  click, like = tallies(np.zeros((9, 2)), labels, np.ones(9)).values()
  (group,) = calibration_groups(click)  # equal predictions are one group
  assert group['examples'] == 9
  assert group['predicted'] == pytest.approx(0.5)
  assert group['actual'] == 0
  assert math.isnan(group['ratio'])
  assert calibration_table('test', [group]).endswith('0.00000    undefined')
  assert calibration_groups(like) == []
  assert 'undefined, no example' in calibration_table('test/like', [])
