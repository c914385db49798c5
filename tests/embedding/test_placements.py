"""Every encoding, placement, pooling, optimizer on 1, 2, 4 and 8 devices.

A few models mix them all, each on some devices with some optimizer, so that
any two choices meet in one; a short reference in numpy says what is right.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlrm_jax import sharding
from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoder import encode
from dlrm_jax.embedding.features import Feature, Pooling
from dlrm_jax.embedding.table import Placement
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.rowwise import rowwise
from tests.embedding import encodings, reference

# A step is far larger than what rounding can grow to in a few of them.
SHARDS, BATCH, RATE = 8, 32, 0.05
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
DEVICES = 1, 2, 4, 8
BAGS = (1, Pooling.SUM), (3, Pooling.SUM), (2, Pooling.MEAN)


class Encoder(nn.Module):
  """The vectors of a batch; has the layers that encodings have."""

  collection: EmbeddingCollection

  @nn.compact
  def __call__(self, vectors, ids, id_weights):
    inputs = Inputs(jnp.zeros((len(ids), 0)), ids, id_weights)
    return encode(self.collection, vectors, inputs)['vectors']


class Model(NamedTuple):
  """Features of every placement, and their definitions."""

  dim: int
  collection: EmbeddingCollection
  compositions: tuple[reference.Composition, ...]
  ids: tuple[int, ...]
  params: dict

  @property
  def features(self):
    return self.collection.features

  def draw(self, seed):
    rng = np.random.default_rng(seed)
    ids = np.concatenate(
      [
        rng.integers(-1, n, (BATCH, f.hotness))
        for f, n in zip(self.features, self.ids, strict=True)
      ],
      1,
    ).astype(np.int32)
    ids[0] = PAD  # an example of empty bags only
    ids[5:9] = ids[5]  # repeats
    shape = BATCH, len(self.features), self.dim
    target = rng.normal(size=shape).astype(np.float32)
    return ids, rng.random(ids.shape, np.float32), target


@functools.cache
def make_model(group, part):
  """A quarter of all placements of each encoding, with one kind of bag or more.

  Over all four parts every placement has every encoding. The first encoding
  also has two features that share its tables.

  Args:
    group: name of the encodings.
    part: which quarter of the combinations, 0 to 3.
  """
  dim, made = encodings.groups()[group]
  cases, features = [], []
  for p, (where, placement) in enumerate(PLACEMENTS.items()):
    for e, (name, make) in enumerate(made.items()):
      if (e + p) % len(DEVICES) != part:
        continue
      table = f'{where} {name.removesuffix(" again")}'
      case = make(table, dim, placement)
      kinds = BAGS[1:] if e == 0 else (BAGS[(e + p) % len(BAGS)],)
      for hotness, pooling in kinds:
        title = f'{where} {name} {hotness}'
        features.append(Feature(title, case.encoding, hotness, pooling))
        cases.append(case)
  collection = EmbeddingCollection(tuple(features), SHARDS)
  params = fixed_layers(collection)
  compositions = tuple(case.composition(params) for case in cases)
  ids = tuple(case.ids for case in cases)
  return Model(dim, collection, compositions, ids, params)


def fixed_layers(collection):
  """Random numbers for all parameters, biases too."""
  ids = jnp.zeros((1, sum(f.hotness for f in collection.features)), jnp.int32)
  vectors = collection.empty_vectors()
  init = functools.partial(Encoder(collection).init, jax.random.key(0))
  shapes = jax.eval_shape(init, vectors, ids, None).get('params', {})
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: rng.uniform(-0.7, 0.7, x.shape).astype(np.float32), shapes
  )


def send(batch):
  where = sharding.sharding_of(sharding.SPLIT)
  return jax.tree.map(lambda x: jax.device_put(x, where), batch)


def step(model, tx, tables, state, batch):
  collection, (ids, id_weights, target) = model.collection, batch
  rows = collection.rows(ids, id_weights)
  vectors = collection.lookup(tables, rows)

  def loss(vectors):
    layers = {'params': jax.tree.map(jnp.asarray, model.params)}
    encoded = Encoder(collection).apply(layers, vectors, ids, id_weights)
    return jnp.mean(jnp.sum(jnp.sin(encoded) * target, (1, 2))), encoded

  grads, encoded = jax.grad(loss, has_aux=True)(vectors)
  return *collection.update(tx, tables, state, rows, grads)[:2], encoded


class Reference:
  """One copy of some of the tables: of those that all nodes learn, or one."""

  def __init__(self, model, first, optimizer, independent):
    self.model = model
    mine = [
      t
      for t in model.collection.tables
      if t.placement.independent is independent
    ]
    self.tables = {t.name: first[t.name].astype(np.float64) for t in mine}
    self.optimizers = {
      t.name: reference.Optimizer(
        optimizer, RATE, (t.rows, t.dim), t.placement.columns
      )
      for t in mine
    }
    self.features = [
      f for f, c in enumerate(model.compositions) if c.tables[0] in self.tables
    ]

  def step(self, out, ids, id_weights, target):
    """Writes its vectors of the examples, and learns from their mean."""
    by_row = {name: {} for name in self.tables}
    bags = reference.bags(self.model.features, ids, id_weights)
    for x, of_example in enumerate(bags):
      for f in self.features:
        composition, bag = self.model.compositions[f], of_example[f]
        made = reference.vector(composition, self.tables, bag, self.model.dim)
        out[x, f] = made
        g = np.cos(made) * target[x, f] / len(target)
        for name, row, grad in reference.gradients(
          composition, self.tables, bag, g
        ):
          by_row[name][row] = by_row[name].get(row, 0) + grad
    for name, optimizer in self.optimizers.items():
      optimizer.move(self.tables[name], by_row[name])


def prepared(model, tx):
  """First tables and state, and the step, on the devices in use."""
  collection = model.collection
  where = jax.tree.map(sharding.sharding_of, collection.specs)
  init = jax.jit(collection.init, out_shardings=where)
  tables = init(jax.random.key(0))
  state = collection.init_state(tx, tables)
  state_where = jax.tree.map(
    sharding.sharding_of, collection.state_specs(tx, state)
  )
  run = jax.jit(
    functools.partial(step, model, tx),
    out_shardings=(where, state_where, None),
    donate_argnums=(0, 1),
  )
  return tables, jax.device_put(state, state_where), run


def covering():
  """Each group, optimizer and number of devices once with each other.

  The fast tier has each group once, and each number of devices once.
  """
  for g, group in enumerate(encodings.groups()):
    for d, devices in enumerate(DEVICES):
      optimizer = [*OPTIMIZERS][(g + d) % len(OPTIMIZERS)]
      marks = () if d == (0, 2, 1, 3)[g] else pytest.mark.slow
      yield pytest.param(group, optimizer, devices, d, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('group', 'optimizer', 'devices', 'part'), [*covering()]
)
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_all_are_what_they_are_by_definition(group, optimizer, devices, part):
  model = make_model(group, part)
  weighted = devices in (1, 4)
  tx = rowwise(optax.chain(OPTIMIZERS[optimizer](), optax.scale(-RATE)))

  def draw(seed):
    ids, id_weights, target = model.draw(seed)
    return ids, id_weights if weighted else None, target

  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    tables, state, run = prepared(model, tx)
    first = read(model, jax.device_get(tables))
    together = Reference(model, first, optimizer, independent=False)
    nodes = [
      Reference(model, first, optimizer, independent=True)
      for _ in range(SHARDS)
    ]
    for seed in range(3):
      ids, id_weights, target = batch = draw(seed)
      tables, state, encoded = run(tables, state, send(batch))
      vectors = np.zeros(target.shape)
      together.step(vectors, ids, id_weights, target)
      part = BATCH // SHARDS
      for k, node in enumerate(nodes):
        own = slice(k * part, (k + 1) * part)
        weights = None if id_weights is None else id_weights[own]
        node.step(vectors[own], ids[own], weights, target[own])
      np.testing.assert_allclose(encoded, vectors, rtol=1e-3, atol=1e-4)
    tables = jax.device_get(tables)
    for k, node in enumerate([*nodes, together]):
      for name, want in node.tables.items():
        np.testing.assert_allclose(
          model.collection.read(tables, name, k % SHARDS),
          want,
          rtol=1e-3,
          atol=1e-4,
          err_msg=name,
        )


def read(model, tables):
  collection = model.collection
  return {
    t.name: np.asarray(collection.read(tables, t.name))
    for t in collection.tables
  }
