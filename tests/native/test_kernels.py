"""Kernels in C: the same as XLA's lookups and updates, in place."""

import functools
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax import native
from dlrm_jax.batch import PAD, Batch, Inputs
from dlrm_jax.build.data import open_schema
from dlrm_jax.build.task import build_task
from dlrm_jax.embedding.bags import Bags, Group, pull
from dlrm_jax.embedding.low_precision import STORAGES
from dlrm_jax.native import RowKind
from dlrm_jax.training.state import abstract_state, new_state
from dlrm_jax.training.step import train_step
from tests import small
from tests.training.test_step import arrays_made

needs_kernels = pytest.mark.skipif(
  not native.in_use(), reason=f'no native kernels: {native.library().why_not}'
)


@pytest.mark.skipif(
  shutil.which('cc') is None or 'DLRM_JAX_NATIVE' in os.environ,
  reason='there is no C compiler, or DLRM_JAX_NATIVE is set',
)
def test_they_are_there_where_a_compiler_is():
  assert not native.library().why_not


@needs_kernels
@pytest.mark.parametrize(
  ('value', 'used'), [('', True), ('1', True), ('0', False)]
)
def test_a_variable_leaves_them_out(value, used, monkeypatch):
  monkeypatch.setenv('DLRM_JAX_NATIVE', value)
  assert (not native.library.__wrapped__().why_not) is used


ROWS, BATCH = 1000, 33
GROUPS = {
  'one id': (Group(3, 1),),
  'bags': (Group(2, 20),),
  'several lengths': (Group(3, 1), Group(2, 5), Group(1, 37)),
}
WIDTHS = 1, 3, 16, 32, 48, 64, 100, 128, 200


def draw(groups, dim, weighted, rows=ROWS, seed=0):
  chance = np.random.default_rng(seed)
  ids = sum(count * length for count, length in groups)
  bags = Bags(
    jnp.array(chance.integers(-2, rows + 2, (BATCH, ids)), jnp.int32),
    jnp.array(chance.normal(size=(BATCH, ids)), jnp.float32)
    if weighted
    else None,
  )
  return jnp.array(chance.normal(size=(rows, dim)), jnp.float32), bags


@needs_kernels
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('name', GROUPS)
@pytest.mark.parametrize('dim', WIDTHS)
def test_lookups_are_those_of_xla(dim, name, weighted):
  groups = GROUPS[name]
  table, bags = draw(groups, dim, weighted)

  def lookup(table, bags):
    return pull(table, bags, groups, dim)

  got = jax.jit(lookup).lower(table, bags).compile()
  assert 'dlrm_jax_pool' in got.as_text()
  with native.left_out():
    want = jax.jit(lambda *x: lookup(*x)).lower(table, bags).compile()
  assert 'dlrm_jax_pool' not in want.as_text()
  if weighted:  # XLA adds with or without rounding in between, as it sees fit
    np.testing.assert_allclose(
      got(table, bags), want(table, bags), rtol=1e-5, atol=1e-5
    )
  else:
    np.testing.assert_array_equal(got(table, bags), want(table, bags))


@needs_kernels
def test_rows_of_a_packed_stack():
  table, bags = draw(GROUPS['bags'], 16, False)
  packed = table.reshape(-1, 128)
  got = jax.jit(
    lambda t: native.pool(RowKind.FLOAT32, [t], *bags, GROUPS['bags'], 16)
  )
  np.testing.assert_array_equal(got(packed), got(table))


@needs_kernels
def test_a_lookup_has_a_gradient_and_can_be_mapped():
  groups = GROUPS['several lengths']
  table, bags = draw(groups, 16, True)

  def loss(table, bags):
    return jnp.sum(jnp.sin(pull(table, bags, groups, 16)))

  got = jax.grad(loss)(table, bags)
  with native.left_out():
    want = jax.grad(lambda *x: loss(*x))(table, bags)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  two = jnp.stack([table, 2 * table])
  mapped = jax.vmap(loss, (0, None))(two, bags)
  want = [loss(one, bags) for one in two]
  np.testing.assert_allclose(mapped, want, rtol=1e-5)


@needs_kernels
def test_a_zero_keeps_its_sign():
  table = jnp.full((2, 16), -0.0)
  rows = jnp.zeros((1, 1), jnp.int32)
  got = native.pool(RowKind.FLOAT32, [table], rows, None, ((1, 1),), 16)
  assert np.signbit(got).all()


BITS = {
  RowKind.FLOAT16: 16,
  RowKind.BFLOAT16: 16,
  RowKind.INT8: 8,
  RowKind.INT4: 4,
  RowKind.INT2: 2,
}
LONG = Group(3, 1), Group(2, 5), Group(1, 300)


def draw_kept(kind, dim, rows=ROWS, seed=1):
  """Rows as they are kept, and their values."""
  chance = np.random.default_rng(seed)
  if kind in (RowKind.FLOAT16, RowKind.BFLOAT16):
    dtype = np.float16 if kind == RowKind.FLOAT16 else jnp.bfloat16
    values = chance.normal(size=(rows, dim)).astype(dtype)
    return [values.view(np.uint16)], values.astype(np.float32)
  bits = BITS[kind]
  kept = chance.integers(0, 256, (rows, dim * bits // 8), np.uint8)
  codes = kept[:, :, None] >> np.arange(0, 8, bits, dtype=np.uint8)
  codes = (codes & (2**bits - 1)).reshape(rows, dim).astype(np.float32)
  line = chance.normal(size=(rows, 2)) / [2**bits, 1]
  line = line.astype(np.float32 if kind == RowKind.INT8 else np.float16)
  scale, bias = np.split(line.astype(np.float32), 2, 1)
  if kind != RowKind.INT8:
    line = line.view(np.uint16)
  return [kept, line], codes * scale + bias


def summed(values, bags, groups):
  """Sums of bags of values, in the order of the bags."""
  rows, start, sums = np.array(bags.rows), 0, []
  known = (rows >= 0) & (rows < len(values))
  vectors = np.where(known[..., None], values[np.where(known, rows, 0)], 0)
  if bags.weights is not None:
    vectors = vectors * np.array(bags.weights)[..., None]
  for count, length in groups:
    part = vectors[:, start : start + count * length]
    part = part.reshape(len(rows), count, length, values.shape[1])
    total = np.zeros((len(rows), count, values.shape[1]), np.float32)
    for j in range(length):
      total += part[:, :, j]
    sums.append(total)
    start += count * length
  return np.concatenate(sums, 1)


@needs_kernels
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('width', [1, 3, 9, 16, 25, 64, 100])
@pytest.mark.parametrize('kind', BITS)
def test_lookups_of_rows_of_low_precision(kind, width, weighted):
  dim = width * max(8 // BITS[kind], 1)
  arrays, values = draw_kept(kind, dim)
  _, bags = draw(LONG, 1, weighted)
  kept = [*map(jnp.array, arrays)]
  got = native.pool(kind, kept, *bags, LONG, dim)
  tree = (
    dict(zip(('codes', 'line'), kept, strict=True)) if kept[1:] else kept[0]
  )
  with native.left_out():
    by_xla = pull(tree, bags, LONG, dim, STORAGES[kind.name.lower()])
  for want in (summed(values, bags, LONG), by_xla):
    if len(arrays) == 1 and not weighted:
      np.testing.assert_array_equal(got, want)
    else:
      np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


@needs_kernels
@pytest.mark.parametrize('kind', [RowKind.INT8, RowKind.INT4])
def test_arrays_of_codes_may_be_packed(kind):
  arrays, _ = draw_kept(kind, 32)
  _, bags = draw(LONG, 1, False)
  got, want = (
    native.pool(
      kind, [x.reshape(-1, width * x.shape[1]) for x in arrays], *bags, LONG, 32
    )
    for width in (8, 1)
  )
  np.testing.assert_array_equal(got, want)


@needs_kernels
@pytest.mark.parametrize('dim', [4, 8, 16])
@pytest.mark.parametrize('dtype', [np.float16, jnp.bfloat16])
def test_every_number_of_16_bits(dtype, dim):
  bits = np.arange(2**16, dtype=np.uint16).reshape(-1, dim)
  values = bits.view(dtype).astype(np.float32)
  kind = RowKind.FLOAT16 if dtype == np.float16 else RowKind.BFLOAT16
  rows = jnp.arange(len(bits), dtype=jnp.int32)[:, None]
  for length in (1, 2):
    ids = jnp.tile(rows, length).at[:, 1:].set(PAD)
    got = native.pool(kind, [bits], ids, None, ((1, length),), dim)
    want = values
    if length > 1:  # XLA's threads add numbers below the least normal one as 0
      want = np.where(np.abs(values) < np.finfo(np.float32).tiny, 0, values)
    np.testing.assert_array_equal(got[:, 0], want)


@needs_kernels
def test_a_line_of_float16_may_be_tiny_or_infinite():
  line = np.array([2**-24, -(2**-14) + 2**-24, np.inf, -65504], np.float16)
  codes = np.full((2, 8), 0x21, np.uint8)  # 1, 2, 1, 2, ...
  got = native.pool(
    RowKind.INT4,
    [codes, line.reshape(2, 2).view(np.uint16)],
    jnp.array([[0, PAD], [1, PAD]]),
    None,
    ((1, 2),),
    16,
  )
  least = np.float32(line[0])
  want = [least + line[1], 2 * least + line[1]]
  np.testing.assert_array_equal(got[0, 0, :2], want)
  assert np.isposinf(got[1]).all()


@needs_kernels
@pytest.mark.parametrize(
  'arrays',
  [
    [np.zeros((9, 16), np.float32), np.zeros((9, 2), np.float32)],
    [np.zeros((9, 16), np.uint8), np.zeros((8, 2), np.float32)],
    [np.zeros((9, 16), np.uint8), np.zeros((9, 2), np.uint16)],
    [np.zeros((9, 15), np.uint8), np.zeros((9, 2), np.float32)],
  ],
)
def test_arrays_that_are_no_such_rows_are_refused(arrays):
  rows = jnp.zeros((1, 1), jnp.int32)
  with pytest.raises(jax.errors.JaxRuntimeError, match='do not fit the kind'):
    native.pool(RowKind.INT8, arrays, rows, None, ((1, 1),), 16)


OPTIMIZERS = 'sgd', 'adagrad', 'rowwise_adagrad', 'adam'


def task_of(optimizer, rows=(500, 40, 300, 30)):
  config = small.get_config()
  config.table_optimizer.name = optimizer
  config.table_optimizer.warmup_steps = 3  # each step has a rate of its own
  config.table_optimizer.learning_rate = 0.05
  config.table_optimizer.b2 = 0.99999  # 1 minus it needs more than float32
  config.train.plateau.patience = 1  # a factor of the rates
  config.data.synthetic.tables = rows
  config.data.synthetic.hotness = (1, 1, 7, 2)
  config.model.dim = 16
  config.model.bottom = (16,)
  config.tables.shards = 1
  schema, scale = open_schema(config)
  return build_task(config, schema, scale), schema


def batch_of(schema, seed):
  """Many ids are equal, as in logs, and some are missing."""
  chance = np.random.default_rng(seed)
  examples = 700  # enough for several parts
  ids = [
    chance.integers(0, column.rows, (examples, column.hotness)) ** 2
    % column.rows
    for column in schema.sparse
  ]
  ids = np.concatenate(ids, 1).astype(np.int32)
  ids[chance.random(ids.shape) < 0.1] = PAD
  dense = chance.normal(size=(examples, len(schema.dense)))
  labels = chance.integers(0, 2, (examples, 1))
  return Batch(
    Inputs(jnp.array(dense, jnp.float32), jnp.array(ids)),
    jnp.array(labels, jnp.float32),
    jnp.ones(examples),
  )


@needs_kernels
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@jax.numpy_dtype_promotion('standard')  # Optax needs it
def test_updates_are_those_of_xla(optimizer):
  task, schema = task_of(optimizer)

  def trained(by_kernel):
    state = new_state(task, jax.random.key(0))
    step = jax.jit(functools.partial(train_step, task), donate_argnums=0)
    lowered = step.lower(state, batch_of(schema, 0)).as_text()
    assert ('dlrm_jax_update' in lowered) == by_kernel
    for seed in range(4):
      state, _ = step(state, batch_of(schema, seed))
    return jax.device_get((state.tables, state.table_state, state.params))

  got = trained(by_kernel=True)
  with native.left_out():
    want = trained(by_kernel=False)
  for one, other in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@jax.numpy_dtype_promotion('standard')  # Optax needs it
def test_tables_are_updated_where_they_are(optimizer):
  rows = 400_000
  task, schema = task_of(optimizer, (rows, 40, rows, 30))
  step = jax.jit(functools.partial(train_step, task), donate_argnums=0)
  compiled = step.lower(abstract_state(task), batch_of(schema, 0)).compile()
  text = compiled.as_text()
  assert 'dlrm_jax_update' in text
  made = [x for x in arrays_made(text) if x[1] != 'custom-call']
  assert max(made)[0] < rows * 4
  memory = compiled.memory_analysis()
  new = memory.output_size_in_bytes - memory.alias_size_in_bytes
  assert new < rows * 4
  assert memory.temp_size_in_bytes < rows * 4
