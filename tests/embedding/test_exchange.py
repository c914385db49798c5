"""Whatever the ids, nothing is dropped, and sums are complete."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrm_jax import sharding
from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.embedding.capacity import BagSpec, capacity
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoder import encode
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import Feature, Pooling
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.optim.adagrad import scale_by_adagrad
from dlrm_jax.optim.clipping import Clip
from dlrm_jax.optim.rowwise import rowwise

DEVICES, BATCH, ROWS, DIM = 8, 512, 1600, 2
COLUMN_WISE = Placement(spread=1, columns=2)
REPLICATED = Placement(replicated=True)
FEATURES = (
  Feature('rows', Plain(Table('rows', ROWS, DIM))),
  Feature('cut', Plain(Table('cut', ROWS, DIM, placement=COLUMN_WISE))),
  Feature('bags', Plain(Table('bags', ROWS, DIM)), 4),
  Feature('both', Plain(Table('bags', ROWS, DIM))),
  Feature('copied', Plain(Table('copied', ROWS, DIM, placement=REPLICATED))),
)
COLUMNS = sum(f.hotness for f in FEATURES)
COLLECTION = EmbeddingCollection(FEATURES, DEVICES)
TX = rowwise(optax.chain(scale_by_adagrad(), optax.scale(-0.5)))
KINDS = ('even', 'equal', 'one shard', 'two shards', 'empty', 'few', 'power')


def draw_ids(kind, rng, shape):
  match kind:
    case 'even':
      return rng.integers(-1, ROWS, shape)
    case 'equal':
      return np.full(shape, rng.integers(ROWS))
    case 'one shard':
      return rng.integers(0, ROWS // 8, shape) * 8 + rng.integers(8)
    case 'two shards':
      return rng.integers(0, ROWS // 8, shape) * 8 + rng.integers(2, size=shape)
    case 'empty':
      return np.full(shape, PAD)
    case 'few':
      return rng.integers(-1, 3, shape)
    case 'power':
      return np.minimum(rng.zipf(1.2, shape), ROWS) - 1
  raise ValueError(kind)


def step(tables, state, ids, target):
  rows = COLLECTION.rows(ids)
  vectors = COLLECTION.lookup(tables, rows)

  def loss(vectors):
    inputs = Inputs(jnp.zeros((len(ids), 0)), ids)
    encoded = encode(COLLECTION, vectors, inputs)['vectors']
    return jnp.sum(encoded * target), encoded

  grads, encoded = jax.grad(loss, has_aux=True)(vectors)
  return *COLLECTION.update(TX, tables, state, rows, grads)[:2], encoded


@functools.cache
def compiled():
  mesh = sharding.make_mesh(jax.devices()[:DEVICES])
  with sharding.use(mesh):
    where = jax.tree.map(sharding.sharding_of, COLLECTION.specs)
    tables = jax.jit(COLLECTION.init, out_shardings=where)(jax.random.key(0))
    state = COLLECTION.init_state(TX, tables)
    state = jax.device_put(
      state,
      jax.tree.map(sharding.sharding_of, COLLECTION.state_specs(TX, state)),
    )
    cut = sharding.sharding_of(sharding.SPLIT)
    ids = jax.ShapeDtypeStruct((BATCH, COLUMNS), jnp.int32, sharding=cut)
    target = jax.ShapeDtypeStruct(
      (BATCH, len(FEATURES), DIM), jnp.float32, sharding=cut
    )
    run = jax.jit(step).lower(tables, state, ids, target).compile()
  return tables, state, run, cut


def by_definition(tables, ids, target):
  """Vectors, and tables after one step of Adagrad on complete sums."""
  vectors, grads, at = [], {n: np.zeros_like(t) for n, t in tables.items()}, 0
  for f, feature in enumerate(FEATURES):
    name = feature.encoding.tables[0].name
    padded = np.concatenate([tables[name], np.zeros((1, DIM))])
    here = ids[:, at : at + feature.hotness]
    at += feature.hotness
    vectors.append(padded[here].sum(1))
    g = np.zeros_like(padded)
    np.add.at(g, here, np.repeat(target[:, None, f], here.shape[1], 1))
    grads[name] += g[:-1]
  moved = {
    n: t - 0.5 * grads[n] / (np.abs(grads[n]) + 1e-10)
    for n, t in tables.items()
  }
  return np.stack(vectors, 1), moved


@settings(max_examples=25)
@given(
  st.lists(st.sampled_from(KINDS), min_size=5, max_size=5),
  st.integers(0, 2**32 - 1),
)
def test_no_id_is_dropped_whatever_the_skew(kinds, seed):
  rng = np.random.default_rng(seed)
  ids = np.concatenate(
    [
      draw_ids(kind, rng, (BATCH, f.hotness))
      for kind, f in zip(kinds, FEATURES, strict=True)
    ],
    1,
  ).astype(np.int32)
  # Of one sign, far from 0: Adagrad's first step then shows every id that is
  # missing from the sum, and none that is lost to rounding.
  target = rng.uniform(0.5, 1, (BATCH, len(FEATURES), DIM)).astype(np.float32)
  tables, state, run, cut = compiled()
  new, sums, encoded = run(
    tables, state, jax.device_put(ids, cut), jax.device_put(target, cut)
  )
  logical = {
    t.name: np.asarray(COLLECTION.read(jax.device_get(tables), t.name))
    for t in COLLECTION.tables
  }
  vectors, moved = by_definition(logical, ids, target)
  np.testing.assert_allclose(encoded, vectors, rtol=1e-5, atol=1e-6)
  new, sums = jax.device_get((new, sums[0].sum_of_squares))
  for table in COLLECTION.tables:
    np.testing.assert_allclose(
      COLLECTION.read(new, table.name), moved[table.name], rtol=1e-5, atol=1e-6
    )
    # The sum of squares is the square of the whole sum: of all devices, at
    # once.
    squares = COLLECTION.read(sums, table.name)
    grads = by_definition_sums(table.name, ids, target)
    np.testing.assert_allclose(squares, grads**2, rtol=1e-4)


def by_definition_sums(name, ids, target):
  sums, at = np.zeros((ROWS + 1, DIM)), 0
  for f, feature in enumerate(FEATURES):
    here = ids[:, at : at + feature.hotness]
    at += feature.hotness
    if feature.encoding.tables[0].name == name:
      np.add.at(sums, here, np.repeat(target[:, None, f], here.shape[1], 1))
  return sums[:-1]


LIMIT, OF_LAYERS = 10.0, 7.0
DESCENDS = rowwise(optax.sgd(0.5))


def clipped_step(tables, state, ids, target):
  rows = COLLECTION.rows(ids)
  vectors = COLLECTION.lookup(tables, rows)

  def loss(vectors):
    inputs = Inputs(jnp.zeros((len(ids), 0)), ids)
    return jnp.sum(encode(COLLECTION, vectors, inputs)['vectors'] * target)

  grads = jax.grad(loss)(vectors)
  clip = Clip(LIMIT, jnp.float32(OF_LAYERS))
  return COLLECTION.update(DESCENDS, tables, state, rows, grads, clip=clip)


@pytest.mark.slow
def test_clipping_counts_each_summed_row_once_in_all_rounds():
  """Ids of one shard arrive in several rounds, on eight devices."""
  rng = np.random.default_rng(0)
  shape = BATCH, len(FEATURES), DIM
  with sharding.use(sharding.make_mesh(jax.devices()[:DEVICES])):
    where = jax.tree.map(sharding.sharding_of, COLLECTION.specs)
    tables = jax.jit(COLLECTION.init, out_shardings=where)(jax.random.key(0))
    state = COLLECTION.init_state(DESCENDS, tables)
    cut = sharding.sharding_of(sharding.SPLIT)
    for kind in ('one shard', 'power'):
      ids = [draw_ids(kind, rng, (BATCH, f.hotness)) for f in FEATURES]
      ids = np.concatenate(ids, 1).astype(np.int32)
      target = rng.normal(size=shape).astype(np.float32)
      sent = jax.device_put((ids, target), cut)
      new, _, scale = jax.jit(clipped_step)(tables, state, *sent)
      names = [table.name for table in COLLECTION.tables]
      sums = {name: by_definition_sums(name, ids, target) for name in names}
      squares = OF_LAYERS + sum((grad**2).sum() for grad in sums.values())
      factor = LIMIT / np.sqrt(squares)
      assert factor < 0.5
      np.testing.assert_allclose(scale, factor, rtol=1e-5)
      before, after = jax.device_get((tables, new))
      for name in names:
        moved = COLLECTION.read(after, name) - COLLECTION.read(before, name)
        np.testing.assert_allclose(
          moved, -0.5 * factor * sums[name], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
  ('stack', 'readers'),
  [('rows_2', [('rows', 1)]), ('bags_2', [('bags', 4), ('bags', 1)])],
)
def test_skewed_ids_need_more_than_one_round(stack, readers):
  """The test above reaches the rounds after the first one."""
  layout, batch = COLLECTION.layout, BATCH // DEVICES
  assert {name for name, _ in layout.in_stack(stack)} == {readers[0][0]}
  room = capacity(
    layout,
    [BagSpec(name, layout.blocks[name][0], length) for name, length in readers],
    batch,
    DEVICES,
  )
  ids = draw_ids('one shard', np.random.default_rng(0), (batch, readers[0][1]))
  assert len(np.unique(ids)) > room.rows


ADAM = rowwise(optax.chain(optax.scale_by_adam(eps=1e-3), optax.scale(-0.1)))
DESCENT = optax.scale_by_learning_rate(optax.linear_schedule(0.1, 0, 10))


def steps_of(tx, devices, seeds, kind):
  """Tables after some steps on weighted, averaged, skewed ids."""
  features = (
    Feature('rows', Plain(Table('rows', ROWS, DIM))),
    Feature('mean', Plain(Table('bags', ROWS, DIM)), 4, Pooling.MEAN),
    Feature('both', Plain(Table('bags', ROWS, DIM))),
    Feature('here', Plain(Table('here', 50, DIM, placement=REPLICATED))),
  )
  collection = EmbeddingCollection(features, DEVICES)

  def step(tables, state, ids, weights, target):
    rows = collection.rows(ids, weights)
    vectors = collection.lookup(tables, rows)

    def loss(vectors):
      inputs = Inputs(jnp.zeros((len(ids), 0)), ids, weights)
      return jnp.sum(encode(collection, vectors, inputs)['vectors'] * target)

    grads = jax.grad(loss)(vectors)
    return collection.update(tx, tables, state, rows, grads)[:2]

  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    cut = sharding.sharding_of(sharding.SPLIT)
    tables = collection.init(jax.random.key(0))
    state = collection.init_state(tx, tables)
    where = jax.tree.map(
      sharding.sharding_of,
      (collection.specs, collection.state_specs(tx, state)),
    )
    tables, state = jax.device_put((tables, state), where)
    run = jax.jit(step, out_shardings=where)
    for seed in seeds:
      rng = np.random.default_rng(seed)
      ids = draw_ids(kind, rng, (BATCH, 7)).astype(np.int32)
      ids[:, 6] %= 50
      weights = rng.random((BATCH, 7), np.float32)
      target = rng.normal(size=(BATCH, 4, DIM)).astype(np.float32)
      sent = [jax.device_put(x, cut) for x in (ids, weights, target)]
      tables, state = run(tables, state, *sent)
  tables, state = jax.device_get((tables, state))
  return {
    t.name: collection.read(tables, t.name) for t in collection.tables
  }, state


@pytest.mark.slow
@pytest.mark.parametrize(
  'tx',
  [ADAM, rowwise(DESCENT)],
)
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_rounds_change_neither_weights_nor_the_count_of_steps(tx):
  want, want_state = steps_of(tx, 1, (0, 1), 'one shard')
  got, got_state = steps_of(tx, DEVICES, (0, 1), 'one shard')
  counts = (
    optax.tree.get(want_state, 'count'),
    optax.tree.get(got_state, 'count'),
  )
  assert counts == (2, 2)
  for name, table in want.items():
    np.testing.assert_allclose(got[name], table, rtol=1e-4, atol=1e-5)
