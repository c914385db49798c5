"""Tables of any storage are read and written as a reference in numpy says."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax import sharding
from dlrm_jax.batch import PAD
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.load import RowState, Workload, layout_load
from dlrm_jax.embedding.low_precision import BFLOAT16, INT8, STORAGES
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.embedding.table import Table
from dlrm_jax.optim.adagrad import scale_by_rowwise_adagrad
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.rows import RowGrads, mix32
from tests.embedding.test_placements import PLACEMENTS, send

SHARDS, BATCH, DIM, RATE, ROWS = 8, 32, 8, 0.25, 21


def make_collection(storage):
  """A storage in every placement, read by one id or by bags of three.

  Beside it is a table in float32.
  """
  features = []
  for k, (place, placement) in enumerate(PLACEMENTS.items()):
    lengths = (1, 3) if place in ('row', 'column') else (1 + k % 2 * 2,)
    for kept in (storage, FLOAT32) if place == 'row' else (storage,):
      for hotness in lengths:
        name = f'{kept.name} {place} {hotness}'
        table = Table(
          name, ROWS, DIM, placement=placement, bound=1.0, storage=kept
        )
        features.append(Feature(name, Plain(table), hotness=hotness))
  return EmbeddingCollection(tuple(features), SHARDS)


def draw(collection, seed):
  """Ids, and a gradient for the vector of each feature, f32[B, F, D]."""
  rng = np.random.default_rng(seed)
  width = sum(f.hotness for f in collection.features)
  ids = rng.integers(-1, ROWS, (BATCH, width)).astype(np.int32)
  ids[0] = PAD
  grads = rng.normal(size=(BATCH, len(collection.features), DIM))
  return ids, grads.astype(np.float32)


def by_stack(collection, of_features):
  """Numbers f32[B, F, D] of features as the bags of every stack have them."""
  found = {}
  for stack, places in collection.places.items():
    pieces = []
    for p in places:
      table = collection.features[p.feature].encoding.table
      block = collection.layout.blocks[table.name][p.block]
      columns = slice(block.column, block.column + block.dim)
      pieces.append(of_features[:, p.feature, None, columns])
    found[stack] = np.concatenate(pieces, 1)
  return found


def bits(collection, name, columns, key, node):
  """The noise of some columns of a table, by definition."""
  number = list(collection.layout.rows).index(name)
  with np.errstate(over='ignore'):
    seed = mix32(mix32(np.uint32(key)) + np.uint32(number))
    if node is not None:
      seed = mix32(seed + np.uint32(node))
    rows = mix32(mix32(np.arange(ROWS, dtype=np.uint32)) ^ seed)
    steps = columns.astype(np.uint32) * np.uint32(0x9E3779B9)
    return mix32(rows[:, None] + steps[None])


class Reference:
  """One table, or one node's copy of it."""

  def __init__(self, collection, table, values, optimizer, node):
    self.collection, self.table, self.node = collection, table, node
    self.values, self.optimizer = np.array(values), optimizer
    self.sums = np.zeros((ROWS, table.placement.columns))

  def look_up(self, ids):
    return sum((self.values[i] for i in ids if i >= 0), np.zeros(DIM))

  def learn(self, grads, key):
    """Moves rows by gradients f64[R, D], of which most are zero."""
    width, touched = DIM // self.table.placement.columns, grads.any(1)
    for k, start in enumerate(range(0, DIM, width)):
      columns = np.arange(start, start + width)
      part = grads[:, columns]
      if self.optimizer == 'rowwise_adagrad':
        self.sums[:, k] += np.mean(part * part, 1)
        part = part / (np.sqrt(self.sums[:, k]) + 1e-10)[:, None]
      new = (self.values[:, columns] - RATE * part).astype(np.float32)
      noise = bits(self.collection, self.table.name, columns, key, self.node)
      storage = self.table.storage
      kept = storage.encode(jnp.array(new), jnp.array(noise))
      found = np.asarray(storage.decode(kept, width))
      self.values[np.ix_(touched, columns)] = found[touched]


OPTIMIZERS = {
  'sgd': optax.identity,
  'rowwise_adagrad': scale_by_rowwise_adagrad,
}


def cases():
  """Every storage with each optimizer and number of devices; few are fast."""
  fast = {
    ('int8', 'sgd', 1),
    ('bfloat16', 'rowwise_adagrad', 2),
  }
  for case in itertools.product((BFLOAT16, INT8), OPTIMIZERS, (1, 2, 8)):
    marks = [] if (case[0].name, *case[1:]) in fast else pytest.mark.slow
    yield pytest.param(*case, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize(('storage', 'optimizer', 'devices'), [*cases()])
def test_a_storage_is_read_and_written_in_every_placement(
  storage, optimizer, devices
):
  collection = make_collection(storage)
  tx = rowwise(optax.chain(OPTIMIZERS[optimizer](), optax.scale(-RATE)))
  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    tables, state, step = prepared(collection, tx)
    references = {
      (t.name, node): Reference(
        collection,
        t,
        collection.read(tables, t.name, node or 0),
        optimizer,
        node,
      )
      for t in collection.tables
      for node in (range(SHARDS) if t.placement.independent else (None,))
    }
    for key in range(2):
      ids, grads = draw(collection, key)
      expected = learned(collection, references, ids, grads, key)
      batch = send((ids, by_stack(collection, grads)))
      tables, state, vectors = step(tables, state, batch, jnp.int32(key))
      for stack, want in by_stack(collection, expected).items():
        np.testing.assert_allclose(vectors[stack], want, 1e-5, 1e-5)
      tables = jax.block_until_ready(tables)
      check_tables(collection, references, tables)


def learned(collection, references, ids, grads, key):
  """Vectors before an update of the references, f32[B, F, D]."""
  vectors, start = np.zeros(grads.shape), 0
  for f, feature in enumerate(collection.features):
    of_feature = ids[:, start : start + feature.hotness]
    start += feature.hotness
    table = feature.encoding.table
    nodes = range(SHARDS) if table.placement.independent else (None,)
    for node, examples in zip(
      nodes, np.split(np.arange(BATCH), len(nodes)), strict=True
    ):
      one, sums = references[table.name, node], np.zeros((ROWS, DIM))
      for x in examples:
        vectors[x, f] = one.look_up(of_feature[x])
        present = of_feature[x][of_feature[x] >= 0]
        np.add.at(sums, present, grads[x, f] * len(nodes))
      one.learn(sums, key)
  return vectors


def check_tables(collection, references, tables):
  """Equal but for rounding, which may decide a random rounding otherwise."""
  for (name, node), one in references.items():
    found = np.asarray(collection.read(tables, name, node or 0))
    same = np.isclose(found, one.values, 1e-4, 1e-5)
    assert same.mean() > 0.97, name
    np.testing.assert_allclose(found, one.values, 2**-6, 0.1, err_msg=name)
    one.values = np.array(found)  # for the next step


def prepared(collection, tx):
  where = jax.tree.map(sharding.sharding_of, collection.specs)
  tables = jax.jit(collection.init, out_shardings=where)(jax.random.key(0))
  state = collection.init_state(tx, tables)
  state_where = jax.tree.map(
    sharding.sharding_of, collection.state_specs(tx, state)
  )
  state = jax.device_put(state, state_where)

  def step(tables, state, batch, key):
    ids, grads = batch
    rows = collection.rows(ids)
    vectors = collection.lookup(tables, rows)
    return *collection.update(tx, tables, state, rows, grads, key)[:2], vectors

  run = jax.jit(step, out_shardings=(where, state_where, None))
  return tables, state, run


def test_stacks_are_apart_by_storage_and_named_by_it():
  stacks = make_collection(INT8).layout.stacks
  assert {'rows_8', 'rows_8_int8', 'bags_4_int8'} < stacks.keys()
  for name, stack in stacks.items():
    assert name.endswith(stack.storage.name) or stack.storage == FLOAT32


def test_bytes_held_and_sent_are_those_of_the_storage():
  found = {}
  for storage in STORAGES.values():
    table = Table('t', 10_000, 64, storage=storage)
    collection = EmbeddingCollection((Feature('f', Plain(table)),), SHARDS)
    work = Workload({'t': (1,)}, 1024, SHARDS, RowState(0, 1))
    load = layout_load(collection.layout, work)
    rows = next(iter(collection.layout.stacks.values())).shard_rows
    found[storage.name] = load.bytes / rows, load.sent
  assert {name: size for name, (size, _) in found.items()} == {
    'float32': 4 * 64 + 4,
    'float16': 2 * 64 + 4,
    'bfloat16': 2 * 64 + 4,
    'int8': 64 + 8 + 4,
    'int4': 32 + 4 + 4,
    'int2': 16 + 4 + 4,
  }
  rows = found['float32'][1] / (4 + 8 * 64)
  assert found['bfloat16'][1] == pytest.approx(rows * (4 + 6 * 64))
  assert found['int8'][1] == pytest.approx(rows * (4 + 5 * 64 + 8))


def test_random_rounding_keeps_steps_that_are_too_small_to_round_to():
  """A step of 1/32 of a quantum moves about one row in 32, by a quantum."""
  table = Table('t', 4096, 1, init=ones, storage=BFLOAT16)
  collection = EmbeddingCollection((Feature('f', Plain(table)),))
  tx = rowwise(optax.sgd(2.0**-13))
  tables = collection.init(jax.random.key(0))
  state = collection.init_state(tx, tables)
  rows = collection.rows(jnp.arange(4096, dtype=jnp.int32)[:, None])
  (stack,) = tables
  grads = {stack: jnp.ones((4096, 1, 1))}
  step = jax.jit(functools.partial(collection.update, tx))
  for key in range(20):
    tables, state, _ = step(tables, state, rows, grads, jnp.int32(key))
  moved = 1 - np.asarray(collection.read(tables, 't'))
  assert np.mean(moved) == pytest.approx(20 * 2.0**-13, rel=0.1)


def ones(seed, row, column, bound):
  return jnp.ones(jnp.broadcast_shapes(row.shape, column.shape))


@given(st.integers(0, 2**32 - 1), st.sampled_from([*STORAGES.values()]))
def test_rows_that_do_not_exist_are_zero_and_are_not_written(seed, storage):
  rng = np.random.default_rng(seed)
  values = rng.normal(size=(128, 16)).astype(np.float32)
  tree = storage.pack(storage.encode(jnp.array(values), None))
  assert storage.count_rows(tree, 16) == 128
  kept = np.asarray(storage.values(tree, 16))
  rows = jnp.array([PAD, 3, 128, 127])
  read = np.asarray(storage.read(tree, rows, 16))
  np.testing.assert_array_equal(read[[0, 2]], 0)
  np.testing.assert_array_equal(read[[1, 3]], kept[[3, 127]])
  update = RowGrads(rows, jnp.ones((4, 16)))
  after = np.asarray(storage.values(storage.add(tree, update, None), 16))
  touched = np.isin(np.arange(128), [3, 127])
  np.testing.assert_array_equal(after[~touched], kept[~touched])
  np.testing.assert_allclose(after[touched], kept[touched] + 1, 2**-8, 0.02)
