"""Features that share a column, roles of several widths, and their scores."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlrm_jax import sharding
from dlrm_jax.batch import PAD, Batch, Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import (
  Feature,
  Pooling,
  column_hotness,
  mean_pooled,
  shapes_of_roles,
)
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.table import Table
from dlrm_jax.errors import InputError
from dlrm_jax.losses import binary_cross_entropy
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.training.heads import Head
from dlrm_jax.training.state import Task, new_state
from dlrm_jax.training.step import compiled_step

BATCH, DIM = 16, 4
ROWS = {'item': 11, 'tags': 7}
HOTNESS = {'item': 1, 'tags': 3}


class FactorizationMachine(nn.Module):
  """Rendle 2010, equation 1, without a bias: weights and pairs of vectors."""

  @nn.compact
  def __call__(self, dense, vectors, train=False):
    del dense, train
    v, w = vectors['vectors'], vectors['linear']
    pairs = jnp.square(v.sum(1)) - jnp.square(v).sum(1)
    return w.sum((1, 2))[:, None] + pairs.sum(1, keepdims=True) / 2


def features():
  """A vector and a weight for every id of each column."""
  return tuple(
    Feature(
      f'{column} {role}',
      Plain(Table(f'{column} {role}', ROWS[column], dim)),
      HOTNESS[column],
      Pooling.MEAN if column == 'tags' else Pooling.SUM,
      column=column,
      role=role,
    )
    for role, dim in (('vectors', DIM), ('linear', 1))
    for column in ROWS
  )


def task(shards=1):
  return Task(
    network=Network(
      EmbeddingCollection(features(), shards),
      FactorizationMachine(),
      dense_features=0,
    ),
    heads=(Head(binary_cross_entropy),),
    tx=optax.sgd(0.1),
    table_tx=rowwise(optax.sgd(0.5)),
  )


def make_batch(seed=0):
  rng = np.random.default_rng(seed)
  ids = np.concatenate(
    [
      rng.integers(-1, ROWS[column], (BATCH, HOTNESS[column]))
      for column in ROWS
    ],
    1,
  ).astype(np.int32)
  ids[0] = PAD
  return Batch(
    Inputs(np.zeros((BATCH, 0), np.float32), ids),
    rng.integers(0, 2, (BATCH, 1)).astype(np.float32),
    np.ones(BATCH, np.float32),
  )


def tables_of(task, state):
  names = [table.name for table in task.collection.tables]
  return {
    name: np.asarray(task.collection.read(state.tables, name)) for name in names
  }


def scores(tables, ids):
  """The factorization machine by loops, f64[B]."""
  found = []
  for row in ids:
    vectors, total = [], 0.0
    for column, part in (('item', row[:1]), ('tags', row[1:])):
      known = [i for i in part if i >= 0]
      share = max(len(known), 1) if column == 'tags' else 1
      vector = np.zeros(DIM)
      for i in known:
        vector = vector + tables[f'{column} vectors'][i] / share
        total += tables[f'{column} linear'][i, 0] / share
      vectors.append(vector)
    found.append(total + vectors[0] @ vectors[1])
  return np.array(found)


def test_features_that_read_one_column_have_tables_of_their_own():
  network, batch = task().network, make_batch()
  state = new_state(task(), jax.random.key(0))
  assert network.ids == 4
  assert column_hotness(network.collection.features) == HOTNESS
  assert mean_pooled(network.collection.features) == ('tags',)
  assert network.shapes.vectors == {'vectors': (2, DIM), 'linear': (2, 1)}
  np.testing.assert_allclose(
    network.outputs(state.layers, state.tables, batch.inputs)[:, 0],
    scores(tables_of(task(), state), batch.inputs.ids),
    rtol=1e-5,
    atol=1e-6,
  )


def test_they_learn_as_their_own_gradients_say():
  batch, h = make_batch(), 1e-3
  state = new_state(task(), jax.random.key(0))
  before = tables_of(task(), state)
  new, _ = compiled_step(task())(state, batch)
  after = tables_of(task(), new)

  def loss(tables):
    z = scores(tables, batch.inputs.ids)
    y = batch.labels[:, 0]
    return np.mean(np.log1p(np.exp(-z)) * y + np.log1p(np.exp(z)) * (1 - y))

  for name in ('item vectors', 'tags linear'):
    i = int(batch.inputs.ids[:, 0 if 'item' in name else 1].max())
    moved = {k: v.astype(np.float64) for k, v in before.items()}
    moved[name] = moved[name].copy()
    moved[name][i, 0] += h
    up = loss(moved)
    moved[name][i, 0] -= 2 * h
    slope = (up - loss(moved)) / (2 * h)
    found = (after[name] - before[name])[i, 0]
    np.testing.assert_allclose(found, -0.5 * slope, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_roles_are_the_same_on_many_devices():
  want, _ = compiled_step(task(4))(
    new_state(task(4), jax.random.key(0)), make_batch()
  )
  want = tables_of(task(4), want)
  with sharding.use(sharding.make_mesh(jax.devices()[:4])):
    state = new_state(task(4), jax.random.key(0))
    state, _ = compiled_step(task(4))(state, sharding.send(make_batch()))
    found = tables_of(task(4), jax.device_get(state))
  for name in want:
    np.testing.assert_allclose(found[name], want[name], rtol=1e-5, atol=1e-6)


def test_a_role_has_one_width():
  one, *_, last = features()
  wrong = Feature('odd', last.encoding, 3, column='tags')
  with pytest.raises(InputError, match='odd: its vector has width 1; other'):
    shapes_of_roles((one, wrong))


def test_a_column_has_one_hotness():
  one, *_ = features()
  wrong = Feature('again', one.encoding, 2, column='item')
  with pytest.raises(InputError, match='again: hotness 2; another feature'):
    column_hotness((one, wrong))
