import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dlrm_jax.inspect import statistics
from dlrm_jax.inspect.statistics import IdCounts


def drawn(n, seed, rows=5000):
  rng = np.random.default_rng(seed)
  ids = np.minimum(rng.zipf(1.3, n), rows).astype(np.int32)
  return ids, (rng.random(n) < 1 / (1 + ids % 7)).astype(np.float32)


def test_tallies_of_parts_join_to_that_of_the_whole():
  ids, labels = drawn(3000, 0)
  parts = [slice(0, 10), slice(10, 10), slice(10, 3000)]
  joined = statistics.merge_counts(
    [IdCounts.of(ids[p], labels[p]) for p in parts]
  )
  for a, b in zip(joined, IdCounts.of(ids, labels), strict=True):
    np.testing.assert_array_equal(a, b)


def test_positions_are_places_or_the_length():
  tally = IdCounts.of(np.array([3, 7, 7]), np.zeros(3))
  ids = np.array([0, 3, 5, 7, 9])
  assert statistics.positions(tally, ids).tolist() == [2, 0, 2, 1, 2]
  none = IdCounts.of(np.empty(0, np.int32), np.empty(0))
  assert statistics.positions(none, ids).tolist() == [0] * 5


def test_coverage_is_of_the_most_frequent_ids():
  found = statistics.coverage(np.array([1, 6, 3]), np.array([1, 2, 3, 99]))
  np.testing.assert_allclose(found, [0.6, 0.9, 1, 1])


def test_two_samples_of_one_distribution_drift_by_the_noise():
  found = [
    statistics.id_drift(
      *(IdCounts.of(*drawn(4000, 3 * s + k)) for k in range(3))
    )
    for s in range(30)
  ]
  ratio = np.mean([d.psi for d in found]) / np.mean([d.noise for d in found])
  assert 0.7 < ratio < 1.3


def test_other_and_new_ids_are_drift():
  rule, before = IdCounts.of(*drawn(4000, 0)), IdCounts.of(*drawn(4000, 1))
  ids, labels = drawn(4000, 2)
  ids[:2000] += 10_000
  drift = statistics.id_drift(rule, before, IdCounts.of(ids, labels))
  assert drift.psi > 0.5 > 20 * drift.noise


def test_quantile_bins_keep_equal_values_together():
  edges = statistics.quantile_bins(np.array([0.0] * 90 + [1.0] * 10))
  assert edges.tolist() == [0, 1]


def test_auc_alone_is_that_of_the_click_rates_of_train():
  train, (ids, labels) = IdCounts.of(*drawn(3000, 0)), drawn(2000, 1)
  base = train.clicks.sum() / train.total
  rates = (train.clicks + 20 * base) / (train.counts + 20)
  scores = [dict(zip(train.ids, rates, strict=True)).get(i, base) for i in ids]
  found = statistics.auc_alone(train, IdCounts.of(ids, labels))
  assert found == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
