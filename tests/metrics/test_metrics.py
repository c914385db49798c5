import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from dlrm_jax.metrics import binary

few = settings(max_examples=30, deadline=None)


@st.composite
def examples(draw, min_size=1):
  """(logits, labels, weights), often with ties and with full bins."""
  n = draw(st.integers(min_size, 60))
  scale = draw(st.sampled_from([1e-4, 1.0, 30.0]))
  logits = draw(
    hnp.arrays(np.float32, n, elements=st.floats(-1, 1, width=32))
  ) * np.float32(scale)
  labels = draw(hnp.arrays(np.float32, n, elements=st.sampled_from([0, 1])))
  weights = draw(hnp.arrays(np.float32, n, elements=st.sampled_from([0, 1, 2])))
  return logits, labels, weights


def random_examples(n=4000, rate=0.2, decimals=None, seed=0):
  rng = np.random.default_rng(seed)
  labels = (rng.random(n) < rate).astype(np.float32)
  logits = rng.normal(-1.5, 1, n) + labels
  if decimals is not None:
    logits = np.round(logits, decimals)
  return logits.astype(np.float32), labels, np.ones(n, np.float32)


def probability(logits):
  return 1 / (1 + np.exp(-np.float64(logits)))


def assert_same(a, b):
  for field, x, y in zip(a._fields[:-1], a[:-1], b[:-1], strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12, err_msg=field)


@pytest.mark.parametrize('decimals', [None, 3, 1, 0])
def test_metrics_agree_with_scikit_learn(decimals):
  logits, labels, weights = random_examples(decimals=decimals)
  got = binary.summarize(binary.tally(logits, labels, weights))
  p = probability(logits)
  auc = oracle.roc_auc_score(labels, logits)
  assert abs(got['auc'] - auc) <= got['auc_bin_bound'] + 1e-12
  assert got['auc_bin_bound'] < 3e-5
  assert got['pr_auc'] == pytest.approx(
    oracle.average_precision_score(labels, logits), abs=2e-4
  )
  assert got['log_loss'] == pytest.approx(oracle.log_loss(labels, p), rel=1e-9)
  assert got['accuracy'] == oracle.accuracy_score(labels, p > 0.5)
  assert got['calibration'] == pytest.approx(p.mean() / labels.mean())
  assert got['mean_prediction'] == pytest.approx(p.mean())
  assert got['base_rate'] == pytest.approx(labels.mean())
  base = np.full(len(labels), labels.mean(dtype=np.float64))
  assert got['ne'] == pytest.approx(
    got['log_loss'] / oracle.log_loss(labels, base)
  )
  assert (got['examples'], got['clicks']) == (len(labels), labels.sum())


def test_ties_are_credited_one_half_and_cost_no_bound():
  logits, labels, weights = random_examples(decimals=1)
  got = binary.summarize(binary.tally(logits, labels, weights))
  assert got['auc'] == pytest.approx(
    oracle.roc_auc_score(labels, logits), abs=1e-12
  )
  assert got['auc_bin_bound'] == 0
  assert got['pr_auc'] == pytest.approx(
    oracle.average_precision_score(labels, logits), abs=1e-12
  )


def test_a_constant_prediction_has_auc_one_half_exactly():
  got = binary.summarize(binary.tally(np.zeros(4), [0, 1, 1, 0], np.ones(4)))
  assert (got['auc'], got['auc_bin_bound']) == (0.5, 0)


def test_unresolved_pairs_are_in_the_bound():
  logits = np.float32([1.0, 1.00001])
  got = binary.summarize(binary.tally(logits, [0, 1], [1, 1]))
  assert (got['auc'], got['auc_bin_bound']) == (0.5, 0.5)


@few
@given(examples())
def test_auc_is_within_its_bound_of_the_exact_value(example):
  logits, labels, weights = example
  got = binary.summarize(binary.tally(*example))
  seen = weights > 0
  if len(np.unique(labels[seen])) < 2:
    assert np.isnan(got['auc'])
    assert np.isnan(got['auc_bin_bound'])
  else:
    exact = oracle.roc_auc_score(
      labels[seen], logits[seen], sample_weight=weights[seen]
    )
    assert abs(got['auc'] - exact) <= got['auc_bin_bound'] + 1e-12


@few
@given(examples(min_size=2), st.data())
def test_order_and_batching_do_not_matter(example, data):
  n = len(example[0])
  order = np.array(data.draw(st.permutations(range(n))))
  cut = data.draw(st.integers(0, n))
  total = binary.empty()
  for part in (slice(cut), slice(cut, None)):
    batch = (array[order][part] for array in example)
    total = binary.tally(*batch, into=total)
  assert_same(total, binary.tally(*example))


def test_a_tally_goes_on_where_another_ended():
  a, b = random_examples(seed=1), random_examples(seed=2)
  whole = binary.tally(*b, into=binary.tally(*a))
  both = map(np.concatenate, zip(a, b, strict=True))
  assert_same(whole, binary.tally(*both))


def test_a_refused_batch_leaves_the_tally_as_it_was():
  total = binary.tally(*random_examples())
  with pytest.raises(ValueError, match='not finite'):
    binary.tally([np.nan, 1], [0, 1], [1, 1], into=total)
  assert_same(total, binary.tally(*random_examples()))


def test_empty_is_neutral():
  total = binary.tally(*random_examples(), into=binary.empty())
  assert_same(total, binary.tally(*random_examples()))


def test_weight_counts_like_repetition_and_zero_is_not_looked_at():
  logits = np.float32([0.5, -1.0, 2.0, np.nan])
  labels = np.float32([1, 0, 0, 7])
  weighted = binary.tally(logits, labels, np.float32([3, 1, 2, 0]))
  index = [0, 0, 0, 1, 2, 2]
  repeated = binary.tally(logits[index], labels[index], np.ones(6))
  for field in ('clicks', 'others', 'low', 'high', 'loss', 'correct'):
    np.testing.assert_allclose(
      getattr(weighted, field), getattr(repeated, field), rtol=1e-12
    )


@pytest.mark.parametrize('label', [0, 1])
def test_with_one_class_what_is_undefined_is_nan(label):
  total = binary.tally(np.float32([-1, 1]), [label] * 2, [1, 1])
  got = binary.summarize(total)
  undefined = {'auc', 'auc_std_error', 'auc_bin_bound', 'ne'}
  if label == 0:
    undefined |= {'pr_auc', 'calibration'}
  assert {name for name, value in got.items() if np.isnan(value)} == undefined
  assert binary.roc_curve(total)[0].size == 0


def test_without_examples_all_but_the_counts_are_nan():
  total = binary.empty()
  got = binary.summarize(total)
  defined = {name for name, value in got.items() if not np.isnan(value)}
  assert defined == {'examples', 'clicks'}
  assert binary.roc_curve(total)[0].size == 0
  assert binary.calibration_curve(total).count.size == 0


def test_a_probability_of_one_half_is_no_click():
  got = binary.summarize(binary.tally([0.0, 0.0, 0.1], [0, 1, 1], [1, 1, 1]))
  assert got['accuracy'] == pytest.approx(2 / 3)


def test_extreme_logits_keep_every_metric_finite():
  logits = np.float32([-3e38, -1000, 1000, 3e38])
  total = binary.tally(logits, [0, 0, 1, 1], np.ones(4))
  got = binary.summarize(total)
  assert np.isfinite(list(got.values())).all()
  assert (got['auc'], got['log_loss'], got['accuracy']) == (1, 0, 1)
  assert np.isfinite(binary.calibration_curve(total)).all()


def test_device_arrays_of_low_precision_are_taken():
  logits = jnp.array([1.0, -1.0], jnp.bfloat16)
  got = binary.summarize(binary.tally(logits, jnp.array([1, 0]), jnp.ones(2)))
  assert got['auc'] == 1


@pytest.mark.parametrize(
  ('logits', 'labels', 'weights', 'message'),
  [
    ([0, np.nan, np.inf], [0, 1, 0], [1, 1, 1], '2 of 3 logits are not finite'),
    ([0, 0], [0, 2], [1, 1], '1 of 2 labels are neither 0 nor 1'),
    ([0, 0], [0, 1], [1, -1], '1 of 2 weights are negative'),
    ([[0], [0]], [0, 1], [1, 1], r'shapes \(2, 1\), \(2,\), \(2,\)'),
  ],
)
def test_bad_examples_are_refused_and_counted(logits, labels, weights, message):
  with pytest.raises(ValueError, match=message):
    binary.tally(logits, labels, weights)


def test_roc_curve_is_thin_rises_and_has_the_area():
  logits, labels, weights = random_examples(20_000)
  total = binary.tally(logits, labels, weights)
  fpr, tpr = binary.roc_curve(total)
  assert len(fpr) == len(tpr) <= 500
  assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
  assert (np.diff(fpr) >= 0).all()
  assert (np.diff(tpr) >= 0).all()
  assert oracle.auc(fpr, tpr) == pytest.approx(
    oracle.roc_auc_score(labels, logits), abs=2e-3
  )


def test_calibration_groups_are_equal_and_add_up():
  logits, labels, weights = random_examples(20_000)
  curve = binary.calibration_curve(binary.tally(logits, labels, weights))
  order = np.argsort(logits)
  np.testing.assert_allclose(curve.count, 1000, atol=20)
  assert curve.count.sum() == 20_000
  assert (curve.observed * curve.count).sum() == pytest.approx(labels.sum())
  np.testing.assert_allclose(
    curve.predicted,
    probability(logits)[order].reshape(20, 1000).mean(1),
    atol=2e-3,
  )
  np.testing.assert_allclose(
    curve.observed, labels[order].reshape(20, 1000).mean(1), atol=1e-2
  )


def test_calibration_keeps_equal_logits_together():
  total = binary.tally(np.zeros(10), [1, 0] * 5, np.ones(10))
  curve = binary.calibration_curve(total)
  np.testing.assert_array_equal(curve, [[0.5], [0.5], [10]])


def delong(logits, labels):
  """Variance of the AUC as DeLong et al. define it: all pairs, no bins."""
  clicks, others = logits[labels == 1], logits[labels == 0]
  wins = np.sign(clicks[:, None] - others[None]) / 2 + 0.5
  return wins.mean(1).var(ddof=1) / len(clicks) + wins.mean(0).var(
    ddof=1
  ) / len(others)


@pytest.mark.parametrize('decimals', [None, 1, 0])
def test_the_standard_error_of_auc_is_that_of_delong(decimals):
  logits, labels, weights = random_examples(1500, decimals=decimals)
  got = binary.summarize(binary.tally(logits, labels, weights))
  want = delong(logits, labels) ** 0.5
  assert got['auc_std_error'] == pytest.approx(want, rel=1e-4)


def test_standard_errors_are_the_spread_over_samples():
  """What they say of one sample is what many samples show."""
  found = [
    binary.summarize(binary.tally(*random_examples(1000, seed=seed)))
    for seed in range(100)
  ]
  for metric in ('auc', 'log_loss'):
    spread = np.std([scores[metric] for scores in found], ddof=1)
    said = np.mean([scores[f'{metric}_std_error'] for scores in found])
    assert said == pytest.approx(spread, rel=0.3)  # four of its own errors


def test_the_standard_error_of_log_loss_is_that_of_a_mean():
  logits, labels, weights = random_examples()
  got = binary.summarize(binary.tally(logits, labels, weights))
  x = np.float64(logits)
  losses = np.logaddexp(0, x) - labels * x
  want = losses.std(ddof=1) / len(losses) ** 0.5
  assert got['log_loss_std_error'] == pytest.approx(want, rel=1e-9)


def test_equal_weights_change_no_standard_error_and_unequal_ones_do():
  logits, labels, ones = random_examples()
  plain, scaled, uneven = (
    binary.summarize(binary.tally(logits, labels, weights))
    for weights in (ones, 7 * ones, np.where(np.arange(4000) % 8, ones, 50))
  )
  for metric in ('auc_std_error', 'log_loss_std_error'):
    assert scaled[metric] == pytest.approx(plain[metric], rel=1e-9)
    assert uneven[metric] > 2 * plain[metric]


def test_one_click_has_no_standard_error():
  got = binary.summarize(binary.tally([1, 0, 2], [1, 0, 0], np.ones(3)))
  assert got['auc'] == 0.5
  assert np.isnan(got['auc_std_error'])
