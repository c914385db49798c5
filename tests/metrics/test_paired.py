"""Differences of two models on the same examples."""

import math

import numpy as np
import pytest
from sklearn import metrics as oracle

from dlrm_jax.errors import InputError
from dlrm_jax.metrics import binary, paired


def models(n=1200, decimals=None, seed=0):
  """Two models that agree in part, the first a little better."""
  rng = np.random.default_rng(seed)
  labels = (rng.random(n) < 0.3).astype(np.float32)
  shared = rng.normal(size=n)
  logits = [
    part * labels + shared + 0.5 * rng.normal(size=n) - 1 for part in (1.0, 0.8)
  ]
  if decimals is not None:
    logits = [np.round(x, decimals) for x in logits]
  ones = np.ones(n, np.float32)
  return [paired.Scored(x.astype(np.float32), labels, ones) for x in logits]


def wins(of):
  clicks, others = of.logits[of.labels == 1], of.logits[of.labels == 0]
  return np.sign(np.float64(clicks[:, None]) - others[None]) / 2 + 0.5


@pytest.mark.parametrize('decimals', [None, 1, 0])
def test_the_difference_of_auc_and_its_error_are_those_of_all_pairs(decimals):
  a, b = models(decimals=decimals)
  found = paired.auc_difference(a, b)
  aucs = [oracle.roc_auc_score(x.labels, x.logits) for x in (a, b)]
  assert found.value == pytest.approx(aucs[0] - aucs[1], abs=1e-12)
  apart = wins(a) - wins(b)
  variance = sum(
    apart.mean(axis).var(ddof=1) / apart.shape[1 - axis] for axis in (0, 1)
  )
  assert found.std_error == pytest.approx(variance**0.5, rel=1e-9)
  assert found.z == pytest.approx(found.value / variance**0.5, rel=1e-9)


def test_errors_are_those_of_a_bootstrap_and_less_than_unpaired_ones():
  a, b = models()
  rng = np.random.default_rng(1)
  drawn = []
  for _ in range(300):
    rows = rng.integers(0, a.labels.size, a.labels.size)
    x, y = (paired.Scored(*(v[rows] for v in of)) for of in (a, b))
    drawn.append(
      [
        paired.auc_difference(x, y).value,
        paired.log_loss_difference(x, y).value,
      ]
    )
  spread = np.std(drawn, axis=0, ddof=1)
  for of, want, metric in zip(
    (paired.auc_difference, paired.log_loss_difference),
    spread,
    ('auc', 'log_loss'),
    strict=True,
  ):
    error = of(a, b).std_error
    assert error == pytest.approx(want, rel=0.2)
    alone = [
      binary.summarize(binary.tally(*x))[f'{metric}_std_error'] for x in (a, b)
    ]
    assert error < 0.8 * math.hypot(*alone)


def test_models_that_are_equally_good_are_seldom_beyond_noise():
  """1 in 20 of such pairs is, whatever the seed."""
  beyond = []
  for seed in range(200):
    rng = np.random.default_rng(seed)
    a, _ = models(400, seed=seed)
    noise = rng.normal(size=(2, 400)).astype(np.float32)
    x, y = (a._replace(logits=a.logits + more) for more in noise)
    beyond.append(paired.auc_difference(x, y).p < 0.05)
  assert 0.01 < np.mean(beyond) < 0.11


def test_a_model_is_within_noise_of_itself():
  a, _ = models()
  for difference in (paired.auc_difference, paired.log_loss_difference):
    found = difference(a, a)
    assert found[:3] == (0, 0, 0)
    assert found.p == 1
    assert found.in_words.startswith('within noise')


def test_equal_weights_change_nothing():
  a, b = models()
  heavy = [x._replace(weights=3 * x.weights) for x in (a, b)]
  for difference in (paired.auc_difference, paired.log_loss_difference):
    np.testing.assert_allclose(difference(*heavy), difference(a, b), rtol=1e-9)


def test_of_one_class_there_is_no_difference_of_auc():
  a, b = (x._replace(labels=np.zeros_like(x.labels)) for x in models())
  assert np.isnan(paired.auc_difference(a, b)).all()
  assert paired.auc_difference(a, b).in_words == 'undefined'
  assert not np.isnan(paired.log_loss_difference(a, b)).any()


def test_other_examples_are_refused():
  a, b = models()
  paired.check_same(a, b)
  with pytest.raises(InputError, match='1,200 examples of one run against 3'):
    paired.check_same(a, paired.Scored(*(x[:3] for x in b)))
  flipped = b._replace(labels=np.where(np.arange(1200) < 2, 1 - b.labels, b[1]))
  with pytest.raises(
    InputError, match=r'2 of 1,200 examples have other labels'
  ):
    paired.check_same(a, flipped)


def test_the_change_over_one_repeat_is_the_difference():
  a, b = models()
  for change, difference, sign in (
    (paired.auc_decrease, paired.auc_difference, 1),
    (paired.log_loss_increase, paired.log_loss_difference, -1),
  ):
    mean, error, of_repeats = change(a, [b])
    want = difference(a, b)
    assert mean == pytest.approx(sign * want.value)
    assert error == pytest.approx(want.std_error)
    assert math.isnan(of_repeats)


def test_the_change_over_repeats_is_the_mean_difference():
  a, b = models()
  rng = np.random.default_rng(2)
  noise = rng.normal(size=(4, b.labels.size))
  weights = rng.random(b.labels.size)
  a = a._replace(weights=weights)
  after = [a._replace(logits=b.logits + x) for x in noise]
  for change, difference, sign in (
    (paired.auc_decrease, paired.auc_difference, 1),
    (paired.log_loss_increase, paired.log_loss_difference, -1),
  ):
    values = [sign * difference(a, x).value for x in after]
    errors = [difference(a, x).std_error for x in after]
    mean, error, of_repeats = change(a, after)
    assert mean == pytest.approx(np.mean(values))
    assert of_repeats == pytest.approx(np.std(values, ddof=1) / 2)
    # Means over repeats vary less between examples than single repeats.
    assert 0.5 * min(errors) < error < min(errors)
  losses = [np.logaddexp(0, x.logits) - x.labels * x.logits for x in after]
  change = np.mean(losses, 0) - np.logaddexp(0, a.logits) + a.labels * a.logits
  mean = np.average(change, weights=weights)
  spread = np.average((change - mean) ** 2, weights=weights)
  count = weights.sum() ** 2 / np.sum(weights**2)
  assert paired.log_loss_increase(a, after).std_error == pytest.approx(
    math.sqrt(spread / (count - 1))
  )


def test_a_change_is_undefined_where_its_metric_is():
  a, _ = models()
  ones = a._replace(labels=np.ones_like(a.labels))
  assert all(map(math.isnan, paired.auc_decrease(ones, [ones, ones])))
  none = paired.Scored(*(x[:0] for x in a))
  assert all(map(math.isnan, paired.log_loss_increase(none, [none])))
