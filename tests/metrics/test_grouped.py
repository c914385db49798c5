"""AUC within groups, against scikit-learn's AUC of each user."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from dlrm_jax.metrics.grouped import Examples, group_scores


def random_examples(n, groups, decimals=1, weighted=True, seed=0):
  rng = np.random.default_rng(seed)
  return Examples(
    rng.integers(0, groups, n).astype(np.int32) * 1_000_003 % (2**31 - 1),
    np.round(rng.normal(size=n), decimals).astype(np.float32),
    (rng.random(n) < 0.3).astype(np.float32),
    (rng.integers(1, 4, n) / 3 if weighted else np.ones(n)).astype(np.float32),
  )


def by_user(examples):
  """The same metrics by a loop over users."""
  aucs, impressions, left_out = [], [], 0
  for group in np.unique(examples.groups):
    of_one = examples.groups == group
    _, logits, labels, weights = (x[of_one] for x in examples)
    if len(np.unique(labels)) < 2:
      left_out += 1
      continue
    aucs.append(roc_auc_score(labels, logits, sample_weight=weights))
    impressions.append(weights.sum(dtype=np.float64))
  if not aucs:
    return math.nan, math.nan, 0, left_out
  return (
    np.mean(aucs),
    np.average(aucs, weights=impressions),
    len(aucs),
    left_out,
  )


@settings(max_examples=40, deadline=None)
@given(
  st.integers(0, 300),
  st.integers(1, 60),
  st.integers(0, 3),
  st.booleans(),
  st.integers(0, 999),
)
def test_they_are_the_means_of_the_aucs_of_users(
  n, groups, decimals, weighted, seed
):
  examples = random_examples(n, groups, decimals, weighted, seed)
  found = group_scores(examples)
  np.testing.assert_allclose(found, by_user(examples), rtol=1e-9)


def test_the_order_of_the_examples_changes_no_bit():
  examples = random_examples(5000, 400)
  order = np.random.default_rng(1).permutation(5000)
  shuffled = Examples(*(x[order] for x in examples))
  assert group_scores(shuffled) == group_scores(examples)


def test_a_group_whose_logits_are_equal_counts_one_half():
  labels = np.array([1, 0, 0], np.float32)
  found = group_scores(
    Examples(np.zeros(3, np.int32), np.zeros(3), labels, np.ones(3))
  )
  assert found == (0.5, 0.5, 1, 0)


@pytest.mark.parametrize('n', [0, 7])
def test_without_a_group_of_both_labels_they_are_undefined(n):
  groups = np.arange(n, dtype=np.int32)
  found = group_scores(Examples(groups, np.ones(n), np.ones(n), np.ones(n)))
  assert math.isnan(found.uauc)
  assert math.isnan(found.wuauc)
  assert found[2:] == (0, n)
