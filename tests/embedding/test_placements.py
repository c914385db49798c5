"""Every encoding, placement, pooling, optimizer on 1, 2, 4 and 8 devices.

One model mixes them all; a short reference in numpy says what is right.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlrm_jax import sharding
from dlrm_jax.batch import PAD
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoder import encode
from dlrm_jax.embedding.encoding import Hashed, Plain
from dlrm_jax.embedding.features import Feature, Pooling
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.rowwise import rowwise
from tests.embedding import reference

SHARDS, DIM, BATCH, RATE = 8, 4, 32, 0.3
PLACEMENTS = {
  'row': Placement(),
  'table': Placement(spread=1),
  'table_row': Placement(spread=2),
  'column': Placement(spread=1, columns=2),
  'grid': Placement(spread=4, columns=2),
  'replicated': Placement(replicated=True),
  'independent': Placement(independent=True),
}
OPTIMIZERS = {
  'sgd': optax.identity,
  'adagrad': scale_by_adagrad,
  'rowwise_adagrad': scale_by_rowwise_adagrad,
  'adam': optax.scale_by_adam,
}


def make_features():
  """For every placement: one-hot, a shared bag, a mean; plain and hashed."""
  features = []
  for name, placement in PLACEMENTS.items():
    one = Table(f'{name}_one', 21, DIM, placement=placement)
    bag = Table(f'{name}_bag', 13, DIM, placement=placement)
    few = Table(f'{name}_few', 5, DIM, placement=placement)
    features += [
      Feature(f'{name} one', Plain(one)),
      Feature(f'{name} bag', Plain(bag), 3),
      Feature(f'{name} mean', Plain(bag), 2, Pooling.MEAN),
      Feature(f'{name} hashed', Hashed(few)),
    ]
  return tuple(features)


FEATURES = make_features()
COLLECTION = EmbeddingCollection(FEATURES, SHARDS)


def draw(seed):
  rng = np.random.default_rng(seed)
  most = {'one': 21, 'bag': 13, 'mean': 13, 'hashed': 10**9}
  ids = np.concatenate(
    [
      rng.integers(-1, most[f.name.split()[1]], (BATCH, f.hotness))
      for f in FEATURES
    ],
    1,
  ).astype(np.int32)
  ids[0] = PAD  # an example of empty bags only
  ids[5:9] = ids[5]  # repeats
  target = rng.normal(size=(BATCH, len(FEATURES), DIM)).astype(np.float32)
  return ids, rng.random(ids.shape, np.float32), target


def send(batch):
  where = sharding.sharding_of(sharding.SPLIT)
  return [jax.device_put(x, where) for x in batch]


def step(tx, tables, state, ids, id_weights, target):
  rows = COLLECTION.rows(ids, id_weights)
  vectors = COLLECTION.lookup(tables, rows)

  def loss(vectors):
    encoded = encode(COLLECTION, vectors)
    return jnp.mean(jnp.sum(jnp.sin(encoded) * target, (1, 2))), encoded

  grads, encoded = jax.grad(loss, has_aux=True)(vectors)
  return *COLLECTION.update(tx, tables, state, rows, grads), encoded


@functools.cache
def rows_of(feature, i):
  return int(feature.encoding.rows(jnp.array([[i]]))[0][0, 0])


QUICKLY = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


class Reference:
  """One copy of the logical tables; with `nodes`, one for each of them."""

  def __init__(self, first, optimizer):
    self.tables = {name: x.astype(np.float64) for name, x in first.items()}
    self.optimizers = {
      t.name: reference.Optimizer(
        optimizer, RATE, (t.rows, t.dim), t.placement.columns
      )
      for t in COLLECTION.tables
    }

  def lookup(self, ids, id_weights):
    return reference.lookup(
      FEATURES, self.tables, ids, id_weights, lambda f, i: rows_of(f, int(i))
    )

  def learn(self, vectors, reads, target, independent):
    """From its examples: a mean over them."""
    by_row = {}
    for name, row, f, example, weight in reads:
      if name.startswith('independent') is independent:
        g = np.cos(vectors[example, f]) * target[example, f] / len(target)
        rows = by_row.setdefault(name, {})
        rows[row] = rows.get(row, 0) + weight * g
    for name, optimizer in self.optimizers.items():
      if name.startswith('independent') is independent:
        optimizer.move(self.tables[name], by_row.get(name, {}))


@pytest.mark.parametrize('devices', [1, 2, 4, 8])
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_all_are_what_they_are_by_definition(optimizer, devices):
  tx = rowwise(optax.chain(OPTIMIZERS[optimizer](), optax.scale(-RATE)))
  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    where = jax.tree.map(sharding.sharding_of, COLLECTION.specs)
    tables = jax.jit(COLLECTION.init, out_shardings=where)(jax.random.key(0))
    first = {
      t.name: np.asarray(COLLECTION.read(tables, t.name))
      for t in COLLECTION.tables
    }
    state = COLLECTION.init_state(tx, tables)
    state_where = jax.tree.map(
      sharding.sharding_of, COLLECTION.state_specs(tx, state)
    )
    state = jax.device_put(state, state_where)
    run = jax.jit(
      functools.partial(step, tx),
      out_shardings=(where, state_where, None),
      donate_argnums=(0, 1),
    )
    run = run.lower(tables, state, *send(draw(0))).compile(QUICKLY)
    together = Reference(first, optimizer)
    nodes = [Reference(first, optimizer) for _ in range(SHARDS)]
    for seed in range(3):
      ids, id_weights, target = batch = draw(seed)
      tables, state, encoded = run(tables, state, *send(batch))
      vectors, reads = together.lookup(ids, id_weights)
      together.learn(vectors, reads, target, independent=False)
      alone = [f for f, x in enumerate(FEATURES) if 'independent' in x.name]
      part = BATCH // SHARDS
      for k, node in enumerate(nodes):
        own = slice(k * part, (k + 1) * part)
        its, reads = node.lookup(ids[own], id_weights[own])
        vectors[own, alone] = its[:, alone]
        node.learn(its, reads, target[own], independent=True)
      np.testing.assert_allclose(encoded, vectors, rtol=1e-4, atol=1e-5)
    tables = jax.device_get(tables)
    for table in COLLECTION.tables:
      independent = table.placement.independent
      for k, node in enumerate(nodes if independent else [together]):
        np.testing.assert_allclose(
          COLLECTION.read(tables, table.name, k),
          node.tables[table.name],
          rtol=2e-4,
          atol=2e-5,
          err_msg=table.name,
        )
