"""Nodes that learn tables of their own and share the layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, logit

from dlrm_jax import sharding
from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.data.lists import Lists
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.losses import binary_cross_entropy
from dlrm_jax.metrics import binary
from dlrm_jax.models.dlrm import DLRM
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.run.evaluation import Evaluator, ensemble
from dlrm_jax.training.heads import Head
from dlrm_jax.training.nodes import compiled_average, divergence, node_count
from dlrm_jax.training.state import Task, new_state
from dlrm_jax.training.step import compiled_step

NODES, BATCH = 4, 16


def make_task(placement, shards=NODES):
  features = (
    Feature('one', Plain(Table('one', 30, 4, placement=placement))),
    Feature('bag', Plain(Table('bag', 9, 4, placement=placement)), 3),
  )
  return Task(
    network=Network(
      collection=EmbeddingCollection(features, shards),
      model=DLRM((8, 4), (8,)),
      dense_features=2,
    ),
    heads=(Head(binary_cross_entropy),),
    tx=optax.sgd(0.1),
    table_tx=rowwise(optax.sgd(0.5)),
  )


TASK = make_task(Placement(independent=True))


def make_batch(seed):
  rng = np.random.default_rng(seed)
  return Batch(
    inputs=Inputs(
      dense=rng.normal(size=(BATCH, 2)).astype(np.float32),
      ids=rng.integers(-1, 9, (BATCH, 4)).astype(np.int32),
    ),
    labels=rng.integers(0, 2, BATCH).astype(np.float32)[:, None],
    weights=np.ones(BATCH, np.float32),
  )


def trained(devices, steps=3, average_after=None):
  """A state on so many devices, and what is found out about it."""
  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    state = new_state(TASK, jax.random.key(0))
    step, average = compiled_step(TASK), compiled_average(TASK, keep=False)
    for k in range(steps):
      state, _ = step(state, sharding.send(make_batch(k)))
      if k == average_after:
        state = average(state)
    scored = Evaluator(TASK).nodes(state, [make_batch(9), make_batch(10)])
    scores = {
      k: binary.summarize(x.tallies['click']) for k, x in scored.items()
    }
    return jax.device_get(state), scores, divergence(TASK, state)


@pytest.fixture(scope='module')
def alone():
  return trained(1)


def test_nodes_on_one_device_are_those_on_many(alone):
  state, scores, apart = trained(4)
  want_state, want_scores, want_apart = alone
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    (state, scores, apart),
    (want_state, want_scores, want_apart),
  )


def test_every_node_scores_with_its_own_tables(alone):
  """A plain model that has a node's tables gives that node's scores."""
  state, scores, _ = alone
  plain = make_task(Placement(), 1)
  batches = [make_batch(9), make_batch(10)]
  labels = np.concatenate([b.labels[:, 0] for b in batches])
  ones = np.ones_like(labels)
  chances = []
  for k in range(NODES):
    tables = dict(plain.collection.init(jax.random.key(1)))
    for name in ('one', 'bag'):
      (block,) = plain.collection.layout.blocks[name]
      values = TASK.collection.read(state.tables, name, k)
      stack = tables[block.stack]
      rows = stack.reshape(-1, 4).at[: len(values)].set(values)
      tables[block.stack] = rows.reshape(stack.shape)
    logits = np.concatenate(
      [
        plain.network.outputs(state.layers, tables, b.inputs)[:, 0]
        for b in batches
      ]
    )
    chances.append(expit(logits))
    want = binary.summarize(binary.tally(logits, labels, ones))
    np.testing.assert_allclose(
      scores[f'node {k}']['log_loss'], want['log_loss'], rtol=1e-5
    )
  p = np.mean(chances, 0)
  want = -np.mean(labels * np.log(p) + (1 - labels) * np.log1p(-p))
  np.testing.assert_allclose(scores['ensemble']['log_loss'], want, rtol=1e-5)


def test_logits_of_nodes_are_those_of_their_ensemble(alone):
  state, scores, _ = alone
  padded = make_batch(10)
  padded.weights[3] = 0
  batches = [make_batch(9), padded]
  logits = Evaluator(TASK).logits(state, batches)
  assert logits.shape == (2 * BATCH - 1, 1)
  whole = Evaluator(TASK).logits(state, [make_batch(9), make_batch(10)])
  np.testing.assert_array_equal(logits, np.delete(whole, BATCH + 3, 0))
  labels = np.concatenate([make_batch(k).labels[:, 0] for k in (9, 10)])
  want = binary.summarize(
    binary.tally(whole[:, 0], labels, np.ones_like(labels))
  )
  np.testing.assert_allclose(
    scores['ensemble']['log_loss'], want['log_loss'], rtol=1e-5
  )


def test_a_node_learns_from_its_own_part_of_the_batch(alone):
  state, *_ = alone
  for name, column in (('one', slice(0, 1)), ('bag', slice(1, 4))):
    start = new_state(TASK, jax.random.key(0)).tables
    for k in range(NODES):
      part = slice(k * BATCH // NODES, (k + 1) * BATCH // NODES)
      seen = np.unique(
        np.concatenate(
          [make_batch(s).inputs.ids[part, column].ravel() for s in range(3)]
        )
      )
      moved = np.any(
        TASK.collection.read(state.tables, name, k)
        != TASK.collection.read(start, name, k),
        axis=1,
      )
      np.testing.assert_array_equal(np.flatnonzero(moved), seen[seen >= 0])


def test_averaged_nodes_are_equal_and_their_divergence_is_0():
  state, scores, apart = trained(4, steps=2, average_after=1)
  tables = [TASK.collection.read(state.tables, 'bag', k) for k in range(NODES)]
  for table in tables[1:]:
    np.testing.assert_array_equal(table, tables[0])
  assert apart == {'one': 0.0, 'bag': 0.0}
  assert scores['node 1'] == scores['mean of tables']


def test_the_mean_is_that_of_the_nodes(alone):
  state, _, apart = alone
  mean = compiled_average(TASK, keep=True)(state)
  copies = np.stack(
    [TASK.collection.read(state.tables, 'one', k) for k in range(NODES)]
  )
  np.testing.assert_allclose(
    TASK.collection.read(mean.tables, 'one'), copies.mean(0), rtol=1e-5
  )
  apart_by_hand = np.sqrt(
    np.square(copies - copies.mean(0)).sum((1, 2)).mean()
    / np.square(copies.mean(0)).sum()
  )
  np.testing.assert_allclose(apart['one'], apart_by_hand, rtol=1e-4)
  assert apart['one'] > 0


def test_only_independent_tables_have_nodes():
  assert node_count(TASK) == NODES
  assert node_count(make_task(Placement())) == 0


def test_the_ensemble_of_nodes_that_are_sure_is_sure_and_finite():
  logits = np.float32([[18, 40, 800, -200, 1], [18, 90, 900, -3, 2]])
  together = ensemble(logits)
  np.testing.assert_allclose(together[0], 18)
  np.testing.assert_allclose(
    together[3:],
    logit([0.5 * expit(-3.0), np.mean(expit([1.0, 2.0]))]),
    rtol=1e-12,
  )
  assert np.isfinite(together).all()
  assert 40 < together[1] < 90
  binary.tally(together, np.ones(5), np.ones(5))


def test_one_node_that_is_not_finite_is_seen_in_the_ensemble():
  assert np.isnan(ensemble(np.float32([[np.inf, np.nan], [0, 0]]))).all()


def test_sure_nodes_are_scored(alone):
  """Layers of a size that makes every probability 0 or 1."""
  state = jax.tree.map(jnp.asarray, alone[0])
  large = jax.tree.map(lambda x: 1000 * x, state.params)
  state = dataclasses.replace(state, params=large)
  whole = Evaluator(TASK).nodes(state, [make_batch(9)])['ensemble']
  assert whole.tallies['click'].clicks.sum() == make_batch(9).labels.sum()


def test_every_node_ranks_all_lists(alone):
  state, lists = jax.tree.map(jnp.asarray, alone[0]), Lists(length=8)
  batches = [make_batch(9), make_batch(10)]
  scored = Evaluator(TASK).nodes(state, batches, lists)
  probabilities = 0
  for k in range(NODES):
    logits = np.concatenate([
      TASK.network.outputs(
        state.layers, state.tables, batch.inputs, jnp.int32(k)
      )
      for batch in batches
    ])  # fmt: skip
    assert_places(scored[f'node {k}'].places, logits)
    probabilities += expit(np.float64(logits))
  assert_places(scored['ensemble'].places, probabilities)


def assert_places(places, scores):
  """Each list of 8 has its first where its score says."""
  scores = scores.reshape(-1, 8)
  np.testing.assert_array_equal(
    places.above, np.sum(scores[:, 1:] > scores[:, :1], 1)
  )
