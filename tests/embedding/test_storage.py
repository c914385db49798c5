"""What storages of rows and of optimizers' states promise.

That tables of any storage are read and written as defined is tested in
`test_placements`.
"""

import dataclasses
import functools
from typing import Any

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
from dlrm_jax.embedding.initial import noise
from dlrm_jax.embedding.load import RowState, Workload, layout_load
from dlrm_jax.embedding.low_precision import BFLOAT16, FLOAT16, INT8, STORAGES
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.errors import InputError
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.rows import RowGrads
from tests.embedding.test_placements import (
  OPTIMIZERS,
  PLACEMENTS,
  families,
  logical,
  send,
)

SHARDS = 8


@pytest.mark.parametrize(
  ('storage', 'state', 'name'),
  [
    (FLOAT32, FLOAT32, 'rows_8'),
    (INT8, FLOAT32, 'rows_8_int8'),
    (FLOAT32, BFLOAT16, 'rows_8_state_bfloat16'),
    (INT8, BFLOAT16, 'rows_8_int8_state_bfloat16'),
  ],
)
def test_stacks_are_named_by_their_storages(storage, state, name):
  table = Table('t', 9, 8, storage=storage, state=state)
  collection = EmbeddingCollection((Feature('f', Plain(table)),), SHARDS)
  ((found, stack),) = collection.layout.stacks.items()
  assert (found, stack.storage, stack.state) == (name, storage, state)


def test_a_state_is_kept_number_by_number():
  table = Table('t', 9, 8, state=INT8)
  with pytest.raises(InputError, match='kept as int8; expected one of float32'):
    EmbeddingCollection((Feature('f', Plain(table)),))


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


@pytest.mark.parametrize('kept', [(0, 1), (1, 0), (2, 0)])
def test_a_state_in_bfloat16_has_half_the_bytes(kept):
  sizes = []
  for state in (FLOAT32, BFLOAT16):
    table = Table('t', 10_000, 64, state=state)
    collection = EmbeddingCollection((Feature('f', Plain(table)),), SHARDS)
    work = Workload({'t': (1,)}, 1024, SHARDS, RowState(*kept))
    (stack,) = collection.layout.stacks.values()
    load = layout_load(collection.layout, work)
    sizes.append(load.bytes / stack.shard_rows - 4 * 64)
  assert sizes == [4 * (64 * kept[0] + kept[1]), 2 * (64 * kept[0] + kept[1])]


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


@pytest.mark.parametrize('random', [True, False])
@pytest.mark.parametrize('name', ['adagrad', 'rowwise_adagrad'])
def test_sums_of_squares_grow_by_less_than_a_quantum_on_average(name, random):
  """By 1/32 of a quantum a step; rounded to nearest they would stay."""
  table = Table('t', 4096, 1, init=ones, state=BFLOAT16)
  collection = EmbeddingCollection((Feature('f', Plain(table)),))
  optimizer: Any = OPTIMIZERS[name]
  tx = rowwise(optimizer(initial=1.0))
  tables = collection.init(jax.random.key(0))
  state = collection.init_state(tx, tables)
  rows = collection.rows(jnp.arange(4096, dtype=jnp.int32)[:, None])
  (stack,) = tables
  grads = {stack: jnp.full((4096, 1, 1), 2.0**-6)}
  step = jax.jit(functools.partial(collection.update, tx))
  for key in range(64):
    key = jnp.int32(key) if random else None
    tables, state, _ = step(tables, state, rows, grads, key)
  sums = state.sum_of_squares[stack]
  assert sums.dtype == jnp.uint16
  grown = np.mean(BFLOAT16.decode(sums, 1) - 1)
  assert grown == pytest.approx(64 * 2.0**-12 if random else 0, rel=0.05)


def test_no_two_uses_share_random_bits():
  table = Table('t', 4096, 4, storage=BFLOAT16, state=BFLOAT16)
  layout = EmbeddingCollection((Feature('f', Plain(table)),)).layout
  (stack,) = layout.stacks
  rows = jnp.arange(4096, dtype=jnp.int32)
  draw = jax.jit(
    functools.partial(noise, layout, stack, rows), static_argnums=1
  )
  drawn = [
    np.asarray(draw(jnp.uint32(key), use)) for key in (0, 1) for use in range(3)
  ]
  for i, one in enumerate(drawn):
    for other in drawn[:i]:
      shared = np.unpackbits((one ^ other).view(np.uint8))
      assert np.mean(shared) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize('name', ['adagrad', 'rowwise_adagrad'])
def test_a_dense_update_rounds_all_rows_as_a_sparse_one_those_read(name):
  found = []
  for dense in (False, True):
    placement = Placement(replicated=True, dense=dense)
    table = Table('t', 24, 8, bound=1.0, placement=placement)
    table = dataclasses.replace(table, storage=BFLOAT16, state=BFLOAT16)
    collection = EmbeddingCollection((Feature('f', Plain(table)),))
    tx = rowwise(optax.chain(OPTIMIZERS[name](), optax.scale(-0.1)))
    tables = collection.init(jax.random.key(0))
    state = collection.init_state(tx, tables)
    rows = collection.rows(jnp.arange(24, dtype=jnp.int32)[::-1, None])
    (stack,) = tables
    step = jax.jit(functools.partial(collection.update, tx))
    for key in range(3):
      grads = {stack: jax.random.normal(jax.random.key(key), (24, 1, 8))}
      tables, state, _ = step(tables, state, rows, grads, jnp.int32(key))
    layout = collection.layout
    values, sums = families(tx, tables, state)
    found.append((logical(layout, values), logical(layout.of_state, sums)))
  jax.tree.map(np.testing.assert_array_equal, *found)


def placed(storage, state):
  """A table in every placement, read by one id an example."""
  return EmbeddingCollection(
    tuple(
      Feature(
        name,
        Plain(
          Table(
            name,
            64,
            8,
            placement=placement,
            bound=1.0,
            storage=storage,
            state=state,
          )
        ),
      )
      for name, placement in PLACEMENTS.items()
    ),
    SHARDS,
  )


def after_steps(collection, optimizer, devices):
  """Tables and state after two steps in which no row is read twice."""
  tx = rowwise(optax.chain(OPTIMIZERS[optimizer](), optax.scale(-0.1)))
  rng = np.random.default_rng(0)
  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    where = jax.tree.map(sharding.sharding_of, collection.specs)
    tables = jax.jit(collection.init, out_shardings=where)(jax.random.key(0))
    state = collection.init_state(tx, tables)
    specs = collection.state_specs(tx, state)
    state = jax.device_put(state, jax.tree.map(sharding.sharding_of, specs))

    @jax.jit
    def step(tables, state, ids, grads, key):
      rows = collection.rows(ids)
      return collection.update(tx, tables, state, rows, grads, key)[:2]

    for key in range(2):
      ids = [rng.permutation(64)[:32] for _ in collection.features]
      ids = np.stack(ids, 1).astype(np.int32)
      grads = {
        name: rng.normal(size=(32, *x.shape[1:])).astype(np.float32)
        for name, x in collection.empty_vectors().items()
      }
      batch = send((ids, grads))
      tables, state = step(tables, state, *batch, np.uint32(key))
  return jax.device_get(families(tx, tables, state))


CASES = (
  (FLOAT16, BFLOAT16, 'rowwise_adagrad', 4),
  (BFLOAT16, BFLOAT16, 'adam', 8),
  (INT8, BFLOAT16, 'adagrad', 2),
)


@pytest.mark.parametrize(
  ('storage', 'state', 'optimizer', 'devices'),
  [CASES[0], *(pytest.param(*c, marks=pytest.mark.slow) for c in CASES[1:])],
)
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_bits_do_not_depend_on_the_number_of_devices(
  storage, state, optimizer, devices
):
  """Where no gradients are summed, whose order could decide a rounding."""
  collection = placed(storage, state)
  one, many = (after_steps(collection, optimizer, n) for n in (1, devices))
  jax.tree.map(np.testing.assert_array_equal, one, many)


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
