"""Permutations of features, scored by a function in numpy."""

import numpy as np
import pytest

from dlrm_jax.data.schema import Block, Column, Schema
from dlrm_jax.importance.permuted import Plan, columns_of, measure, order_of

SCHEMA = Schema(
  ('signal', 'noise', 'same'), (Column('site', 5), Column('tags', 9, 3))
)
NAMES = ['signal', 'noise', 'same', 'site', 'tags']


LABELS = ('a', 'b')


@pytest.fixture
def examples():
  rng = np.random.default_rng(0)
  dense = rng.normal(size=(200, 3)).astype(np.float32)
  dense[:, 2] = 4
  ids = rng.integers(0, 5, (200, 4)).astype(np.int32)
  weights = rng.random((200, 4)).astype(np.float32)
  labels = rng.random((200, 2)) < 1 / (
    1 + np.exp(-logits_of(dense, ids, weights))
  )
  labels = labels.astype(np.float32)
  labels[::3, 1] = np.nan
  return Block(dense, ids, labels, weights, rng.random(200).astype(np.float32))


def logits_of(dense, ids, weights):
  """Two labels: one of the signal, one of the tags and their weights."""
  tags = np.sum((ids[:, 1:] - 2) * weights[:, 1:], 1)
  return np.stack([2 * dense[:, 0], tags], 1).astype(np.float32)


def score(examples):
  return logits_of(examples.dense, examples.ids, examples.id_weights)


def metrics(examples, label):
  """Log-loss and AUC of a label, by a loop over all pairs."""
  x, y = score(examples)[:, label], examples.labels[:, label]
  known = ~np.isnan(y)
  x, y, w = x[known].astype(float), y[known], examples.weights[known]
  loss = np.sum(w * (np.log1p(np.exp(-x)) + (1 - y) * x)) / np.sum(w)
  pairs, won = 0.0, 0.0
  for i in np.flatnonzero(y == 1):
    for j in np.flatnonzero(y == 0):
      pairs += w[i] * w[j]
      won += w[i] * w[j] * ((x[i] > x[j]) + (x[i] == x[j]) / 2)
  return np.array([loss, won / pairs])


def measured(examples, repeats=4, seed=3):
  return measure(Plan.of(examples, SCHEMA, repeats, seed), LABELS, score)


def test_columns_are_those_of_the_arrays():
  columns = columns_of(SCHEMA)
  assert [column.name for column in columns] == NAMES
  assert [column.place for column in columns] == [
    *(slice(k, k + 1) for k in range(3)),
    slice(0, 1),
    slice(1, 4),
  ]


def test_a_bag_and_its_weights_move_together_and_nothing_else(examples):
  order = order_of(0, 4, 0, 200)
  moved = columns_of(SCHEMA)[4].permuted(examples, order)
  np.testing.assert_array_equal(moved.ids[:, 1:], examples.ids[order, 1:])
  np.testing.assert_array_equal(
    moved.id_weights[:, 1:], examples.id_weights[order, 1:]
  )
  np.testing.assert_array_equal(moved.ids[:, 0], examples.ids[:, 0])
  np.testing.assert_array_equal(
    moved.id_weights[:, 0], examples.id_weights[:, 0]
  )
  assert moved.dense is examples.dense
  assert moved.labels is examples.labels


def test_losses_are_means_over_the_permutations_with_their_errors(examples):
  found = measured(examples)
  assert list(found) == list(LABELS)
  for label, feature in ((0, 0), (1, 4), (0, 1)):
    column = columns_of(SCHEMA)[feature]
    orders = [order_of(3, feature, repeat, 200) for repeat in range(4)]
    after = [metrics(column.permuted(examples, x), label) for x in orders]
    before = metrics(examples, label)
    of_label = found[LABELS[label]]
    (loss,) = (f for f in of_label.features if f.feature == column.name)
    assert of_label.metrics['log_loss'] == pytest.approx(before[0], abs=1e-6)
    assert of_label.metrics['auc'] == pytest.approx(before[1], abs=1e-4)
    want = (after - before) * [1, -1]
    errors = np.sqrt(np.sum((want - want.mean(0)) ** 2, 0) / 3 / 4)
    assert [loss.log_loss_increase, loss.auc_decrease] == pytest.approx(
      want.mean(0), abs=1e-6
    )
    assert [
      loss.log_loss_increase_repeats_std_error,
      loss.auc_decrease_repeats_std_error,
    ] == pytest.approx(errors, abs=1e-6)


def test_features_stand_by_falling_increase(examples):
  for losses in measured(examples).values():
    increases = [feature.log_loss_increase for feature in losses.features]
    assert increases == sorted(increases, reverse=True)
    assert {feature.feature for feature in losses.features} == set(NAMES)


def test_equal_features_are_not_scored(examples):
  calls = []

  def counted(examples):
    calls.append(examples)
    return score(examples)

  plan = Plan.of(examples, SCHEMA, 2, 0)
  found = measure(plan, LABELS, counted)
  assert len(calls) == plan.passes == 1 + 4 * 2
  assert '5 features x 2 repeats of 200 examples; 1 ' in plan.line
  (same,) = (f for f in found['a'].features if f.feature == 'same')
  assert same[1:] == (0, 0, 0, 0, 0, 0, True)
  # A bag of equal ids, but of other weights, is not constant.
  equal = examples._replace(ids=np.ones_like(examples.ids))
  assert (
    Plan.of(equal, SCHEMA, 1, 0).constant == [False, False, True] + [False] * 2
  )
  no_weights = equal._replace(id_weights=None)
  assert Plan.of(no_weights, SCHEMA, 1, 0).constant[3:] == [True, True]


def test_permutations_depend_on_seed_feature_and_repeat_alone(examples):
  assert measured(examples) == measured(examples)
  assert measured(examples) != measured(examples, seed=4)
  # More repeats begin with the same ones: of two, the mean and the error tell
  # both.
  one, two = measured(examples, 1)['a'], measured(examples, 2)['a']
  assert np.isnan(one.features[0].log_loss_increase_repeats_std_error)
  mean = two.features[0].log_loss_increase
  away = abs(one.features[0].log_loss_increase - mean)
  error = two.features[0].log_loss_increase_repeats_std_error
  assert away == pytest.approx(error)
  drawn = {
    tuple(order_of(seed, feature, repeat, 9))
    for seed in (0, 1) for feature in (0, 1) for repeat in (0, 1)
  }  # fmt: skip
  assert len(drawn) == 8


def test_an_undefined_auc_is_undefined(examples):
  ones = examples._replace(labels=np.ones((200, 2), np.float32))
  found = measured(ones)['a']
  assert np.isnan(found.metrics['auc'])
  assert np.isnan(found.features[0].auc_decrease)
  assert {f.feature for f in found.features if f.log_loss_increase} == {
    'signal'
  }


def test_a_label_that_no_example_has_is_undefined(examples):
  labels = examples.labels.copy()
  labels[:, 1] = np.nan
  found = measured(examples._replace(labels=labels))
  assert np.isnan(found['b'].metrics['log_loss'])
  assert [f.feature for f in found['b'].features] == NAMES
  assert found['a'].features[0].feature == 'signal'


def test_the_error_over_examples_tells_noise_from_a_signal():
  """Of features that a model reads in vain, 1 in 20 is beyond two errors."""
  schema, found = Schema(('signal', 'noise'), ()), []
  for seed in range(200):
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(300, 2)).astype(np.float32)
    chances = 1 / (1 + np.exp(-dense[:, 0]))
    labels = (rng.random(300) < chances)[:, None].astype(np.float32)
    examples = Block(dense, np.empty((300, 0), np.int32), labels)
    plan = Plan.of(examples, schema, 3, seed)
    losses = measure(plan, ('y',), lambda x: x.dense @ np.float32([[1], [0.2]]))
    found.append({f.feature: f for f in losses['y'].features})
  beyond = [x['noise'].note != 'not told from 0' for x in found]
  assert 0.01 < np.mean(beyond) < 0.1
  assert all(x['signal'].note == '' for x in found)
