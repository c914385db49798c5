"""Several tasks: their losses, missing labels, and their evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlrm_jax import sharding
from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.table import Table
from dlrm_jax.losses import binary_cross_entropy, squared_error
from dlrm_jax.models.dlrm import DLRM, Interaction
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.run.evaluation import Evaluator
from dlrm_jax.training.heads import Head
from dlrm_jax.training.state import Task, new_state
from dlrm_jax.training.step import compiled_step, train_step

BATCH = 64
HEADS = (
  Head(binary_cross_entropy, 'click'),
  Head(squared_error, 'like', weight=0.5),
)


def task(micro_batch=None):
  feature = Feature('x', Plain(Table('x', 9, 4)))
  return Task(
    network=Network(
      EmbeddingCollection((feature,), 4),
      DLRM((8, 4), (8,), interaction=Interaction.CAT, outputs=2),
      dense_features=3,
    ),
    heads=HEADS,
    tx=optax.sgd(0.1),
    table_tx=rowwise(optax.sgd(0.1)),
    micro_batch=micro_batch,
  )


def make_batch(missing=0.4):
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 2, (BATCH, 2)).astype(np.float32)
  labels[rng.random(BATCH) < missing, 1] = np.nan
  return Batch(
    Inputs(
      rng.normal(size=(BATCH, 3)).astype(np.float32),
      rng.integers(0, 9, (BATCH, 1)).astype(np.int32),
    ),
    labels,
    rng.integers(0, 3, BATCH).astype(np.float32),
  )


def loss_by_hand(logits, batch):
  """Weighted means over the labelled examples of each head, summed."""
  total = 0.0
  for i, head in enumerate(HEADS):
    known = ~np.isnan(batch.labels[:, i])
    losses = head.loss(logits[known, i], batch.labels[known, i])
    weights = batch.weights[known]
    total += head.weight * np.sum(losses * weights) / np.sum(weights)
  return total


@pytest.mark.parametrize('micro_batch', [None, 16])
def test_a_missing_label_does_not_count(micro_batch):
  batch, one = make_batch(), task(micro_batch)
  state = new_state(one, jax.random.key(0))
  logits = one.network.outputs(state.layers, state.tables, batch.inputs)
  assert logits.shape == (BATCH, 2)
  new, metrics = jax.jit(functools.partial(train_step, one))(state, batch)
  np.testing.assert_allclose(
    metrics.loss, loss_by_hand(logits, batch), rtol=1e-5
  )
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(new.params))


def test_a_batch_without_any_label_of_a_head_trains_the_other():
  batch = make_batch(missing=1.1)
  assert np.isnan(batch.labels[:, 1]).all()
  state = new_state(task(), jax.random.key(0))
  new, metrics = jax.jit(functools.partial(train_step, task()))(state, batch)
  assert np.isfinite(metrics.loss)
  top = ('model', 'top', 'dense_1', 'kernel')
  before, after = state.params, new.params
  for name in top:
    before, after = before[name], after[name]
  moved = np.asarray(jnp.any(before != after, axis=0))
  assert moved.tolist() == [True, False]


def test_devices_have_unequal_numbers_of_labels_and_the_same_loss():
  batch = make_batch()
  batch.labels[:16, 1] = np.nan  # the first device has none at all
  state = new_state(task(), jax.random.key(0))
  _, want = jax.jit(functools.partial(train_step, task()))(state, batch)
  with sharding.use(sharding.make_mesh(jax.devices()[:4])):
    state = new_state(task(), jax.random.key(0))
    _, found = compiled_step(task())(state, sharding.send(batch))
  np.testing.assert_allclose(found.loss, want.loss, rtol=1e-5)


def test_every_head_is_tallied_on_the_examples_that_have_its_label():
  batch = make_batch()
  state = new_state(task(), jax.random.key(0))
  tallies = Evaluator(task())(state, [batch])
  assert list(tallies) == ['click', 'like']
  for i, tally in enumerate(tallies.values()):
    known = ~np.isnan(batch.labels[:, i])
    weights = batch.weights[known]
    assert tally.clicks.sum() + tally.others.sum() == weights.sum()
    assert tally.clicks.sum() == (weights * batch.labels[known, i]).sum()
