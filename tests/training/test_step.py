"""What a training step costs in memory, read off the compiled program."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlrm_jax import native
from dlrm_jax.batch import PAD, Batch, Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.low_precision import (
  BFLOAT16,
  FLOAT16,
  INT2,
  INT4,
  INT8,
)
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.embedding.table import Table
from dlrm_jax.losses import binary_cross_entropy
from dlrm_jax.models.dlrm import DLRM
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.training.heads import Head
from dlrm_jax.training.state import Task, abstract_state, new_state
from dlrm_jax.training.step import train_step

ROWS, DIM, BATCH = 200_000, 8, 16
OPTIMIZERS = {
  'sgd': optax.sgd(0.1),
  'adagrad': optax.chain(scale_by_adagrad(), optax.scale(-0.1)),
  'rowwise_adagrad': optax.chain(scale_by_rowwise_adagrad(), optax.scale(-0.1)),
  'adam': optax.adam(0.1),
}


def make_task(table_tx, rows=ROWS, storage=FLOAT32, state=FLOAT32):
  table = functools.partial(
    Table, rows=rows, dim=DIM, storage=storage, state=state
  )
  features = (
    Feature('one', Plain(table('one'))),
    Feature('bag', Plain(table('bag')), 5),
  )
  return Task(
    network=Network(
      collection=EmbeddingCollection(features),
      model=DLRM((16, DIM), (16,)),
      dense_features=3,
    ),
    heads=(Head(binary_cross_entropy),),
    tx=optax.sgd(0.1),
    table_tx=rowwise(table_tx),
  )


def make_batch(rows=ROWS, batch=BATCH):
  rng = np.random.default_rng(0)
  return Batch(
    inputs=Inputs(
      dense=rng.normal(size=(batch, 3)).astype(np.float32),
      ids=rng.integers(-1, rows, (batch, 6)).astype(np.int32),
    ),
    labels=rng.integers(0, 2, batch).astype(np.float32)[:, None],
    weights=np.ones(batch, np.float32),
  )


def arrays_made(hlo):
  """Bytes of every array that an instruction makes.

  Parameters are there already. Instructions that pass buffers on, or write
  into their operand in place, make nothing, except where XLA had to copy:
  then there is a copy, which counts.
  """
  passing = (
    'parameter', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'call',
    'fusion', 'scatter', 'dynamic-update-slice', 'conditional',
  )  # fmt: skip
  found = []
  pattern = r'= (f32|f16|bf16|[su](?:8|16|32)|pred)\[([\d,]*)\]\S* ([\w-]+)\('
  for kind, shape, op in re.findall(pattern, hlo):
    size = np.prod([int(n) for n in shape.split(',') if n], dtype=np.int64)
    if op not in passing:
      bits = 8 if kind == 'pred' else int(kind.lstrip('fsub'))
      found.append((size * bits // 8, op))
  return found


STORED = (
  ('sgd', FLOAT32, FLOAT32, True),
  ('adagrad', FLOAT32, FLOAT32, True),
  ('rowwise_adagrad', FLOAT32, FLOAT32, True),
  ('adam', FLOAT32, FLOAT32, True),
  ('adagrad', FLOAT32, FLOAT32, False),
  ('rowwise_adagrad', FLOAT32, BFLOAT16, True),
  ('adam', BFLOAT16, BFLOAT16, True),
  ('sgd', FLOAT16, FLOAT32, True),
  ('adagrad', INT8, BFLOAT16, True),
  ('rowwise_adagrad', INT4, FLOAT32, True),
  ('adam', INT2, BFLOAT16, True),
)


@pytest.mark.parametrize(('name', 'storage', 'state', 'kernels'), STORED)
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_no_temporary_of_the_size_of_a_table(name, storage, state, kernels):
  task = make_task(OPTIMIZERS[name], storage=storage, state=state)
  step = jax.jit(functools.partial(train_step, task), donate_argnums=0)
  without = contextlib.nullcontext() if kernels else native.left_out()
  with without:
    lowered = step.lower(abstract_state(task), make_batch())
  compiled = lowered.compile()
  memory = compiled.memory_analysis()
  # Half of one number for each row, in float32; codes of int2 have as many.
  limit = ROWS * 2
  assert memory.temp_size_in_bytes < limit
  # Donated and written in place: outputs beyond the inputs are small, too.
  assert memory.output_size_in_bytes - memory.alias_size_in_bytes < limit
  largest = max(arrays_made(compiled.as_text()))
  assert largest[0] < limit, largest


def test_the_check_finds_a_dense_gradient():
  """The check above can fail: a step with a dense gradient does not pass."""

  def step(table, rows):
    grads = jax.grad(lambda t: jnp.sum(jnp.sin(t[rows])))(table)
    return table - 0.1 * grads

  table = jnp.zeros((ROWS, DIM))
  rows = jnp.arange(BATCH, dtype=jnp.int32)
  compiled = jax.jit(step, donate_argnums=0).lower(table, rows).compile()
  assert compiled.memory_analysis().temp_size_in_bytes >= ROWS * DIM * 4
  assert max(arrays_made(compiled.as_text()))[0] >= ROWS * DIM * 4


def test_temporaries_do_not_depend_on_the_number_of_rows():
  sizes = []
  for rows in (1000, 100_000):
    task = make_task(OPTIMIZERS['rowwise_adagrad'], rows)
    step = jax.jit(functools.partial(train_step, task), donate_argnums=0)
    compiled = step.lower(abstract_state(task), make_batch(rows)).compile()
    sizes.append(compiled.memory_analysis().temp_size_in_bytes)
  assert sizes[0] == sizes[1]


def test_loss_is_ln_2_when_all_weights_are_zero():
  task = make_task(OPTIMIZERS['sgd'], 50)
  state = jax.tree.map(jnp.zeros_like, new_state(task, jax.random.key(0)))
  _, told = jax.jit(functools.partial(train_step, task))(state, make_batch(50))
  np.testing.assert_allclose(told.loss, np.log(2), rtol=1e-6)


def test_padding_examples_change_nothing():
  task = make_task(OPTIMIZERS['rowwise_adagrad'], 50)
  state = new_state(task, jax.random.key(0))
  batch = make_batch(50)
  inputs = batch.inputs
  padded = Batch(
    inputs=Inputs(
      dense=np.concatenate([inputs.dense, 0 * inputs.dense]),
      ids=np.concatenate([inputs.ids, np.full_like(inputs.ids, PAD)]),
    ),
    labels=np.concatenate([batch.labels, 0 * batch.labels]),
    weights=np.concatenate([batch.weights, 0 * batch.weights]),
  )
  step = jax.jit(functools.partial(train_step, task))
  want, told = step(state, batch)
  got, told_padded = step(state, padded)
  np.testing.assert_allclose(told_padded.loss, told.loss, rtol=1e-6)
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6),
    got,
    want,
  )


def test_a_step_that_diverges_says_where():
  task = make_task(OPTIMIZERS['sgd'], 50)
  state = new_state(task, jax.random.key(0))
  batch = make_batch(50)
  batch.inputs.dense[3, 1] = np.inf
  _, told = jax.jit(functools.partial(train_step, task))(state, batch)
  bad = [k for k, v in told.largest.items() if not np.isfinite(v)]
  assert bad[0] == 'dense features'
  assert bad[-1] == 'loss'


def test_scores_of_an_example_do_not_depend_on_its_batch():
  task = make_task(OPTIMIZERS['sgd'], 50)
  state = new_state(task, jax.random.key(0))
  batch = make_batch(50)
  outputs = functools.partial(task.network.outputs, state.layers, state.tables)
  first = jax.tree.map(lambda x: x[:4], batch.inputs)
  np.testing.assert_allclose(
    outputs(first),
    outputs(batch.inputs)[:4],
    rtol=1e-5,
  )
