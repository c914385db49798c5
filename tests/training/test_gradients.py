"""A step in micro-batches beside a plain one: dense tables, one piece."""

import dataclasses
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
from dlrm_jax.errors import InputError
from dlrm_jax.losses import binary_cross_entropy
from dlrm_jax.models.dlrm import DLRM
from dlrm_jax.optim.adagrad import scale_by_adagrad
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.training.gradients import count_pieces
from dlrm_jax.training.heads import Head
from dlrm_jax.training.state import Task, new_state
from dlrm_jax.training.step import compiled_step, train_step

ROWS, DIM, BATCH = (30, 200), 4, 2048
HOTNESS = (1, 3)
TX = {
  'sgd': optax.sgd(0.5),
  'adagrad': optax.chain(scale_by_adagrad(), optax.scale(-0.1)),
}


def make_task(name, micro_batch=None):
  features = tuple(
    Feature(f'f{i}', Plain(Table(f'f{i}', rows, DIM)), hot)
    for i, (rows, hot) in enumerate(zip(ROWS, HOTNESS, strict=True))
  )
  return Task(
    network=Network(
      collection=EmbeddingCollection(features, shards=4),
      model=DLRM((8, DIM), (8,)),
      dense_features=3,
    ),
    heads=(Head(binary_cross_entropy),),
    tx=TX[name],
    table_tx=rowwise(TX[name]),
    micro_batch=micro_batch,
  )


def make_batch(size=BATCH):
  rng = np.random.default_rng(0)
  columns = [
    rng.integers(-1, rows, (size, hot))
    for rows, hot in zip(ROWS, HOTNESS, strict=True)
  ]
  return Batch(
    inputs=Inputs(
      dense=rng.normal(size=(size, 3)).astype(np.float32),
      ids=np.concatenate(columns, 1).astype(np.int32),
    ),
    labels=rng.integers(0, 2, size).astype(np.float32)[:, None],
    weights=rng.integers(0, 3, size).astype(np.float32),
  )


def logical(task, state):
  return [
    task.collection.read(state.tables, t.name) for t in task.collection.tables
  ]


def plain_step(task, state, batch, name):
  """Dense gradients of whole tables, the whole batch at once."""

  def loss_fn(params, tables):
    padded = [jnp.concatenate([t, jnp.zeros((1, DIM))]) for t in tables]
    cuts = np.split(batch.inputs.ids, np.cumsum(HOTNESS)[:-1], axis=1)
    vectors = jnp.stack(
      [jnp.sum(t[ids], 1) for t, ids in zip(padded, cuts, strict=True)], 1
    )
    logits = task.network.model.apply(
      {'params': params}, batch.inputs.dense, {'vectors': vectors}
    )
    losses = binary_cross_entropy(logits, batch.labels)[:, 0]
    return jnp.sum(losses * batch.weights) / jnp.sum(batch.weights)

  tables = logical(task, state)
  params = state.params['model']
  loss, grads = jax.value_and_grad(loss_fn, (0, 1))(params, tables)
  tx = TX[name]
  updates, _ = tx.update(grads, tx.init((params, tables)))
  return loss, *optax.apply_updates((params, tables), updates)


def assert_equal(task, state, told, want):
  loss, params, tables = want
  close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6)
  close(told.loss, loss)
  jax.tree.map(close, state.params['model'], params)
  jax.tree.map(close, logical(task, state), tables)


@pytest.mark.parametrize('name', TX)
@pytest.mark.parametrize('micro_batch', [None, BATCH, BATCH // 2, BATCH // 8])
def test_a_step_in_pieces_is_the_plain_step(name, micro_batch):
  task, batch = make_task(name, micro_batch), make_batch()
  state = new_state(task, jax.random.key(0))
  want = plain_step(task, state, batch, name)
  got, told = jax.jit(functools.partial(train_step, task))(state, batch)
  assert_equal(task, got, told, want)


@pytest.mark.slow
@pytest.mark.parametrize(
  'micro_batch', [pytest.param(None, marks=pytest.mark.slow), 128]
)
def test_devices_sum_what_their_pieces_give(micro_batch):
  # 1,024 examples for each of four devices: they are cut unasked, too.
  task, batch = make_task('adagrad', micro_batch), make_batch(4096)
  want = plain_step(task, new_state(task, jax.random.key(0)), batch, 'adagrad')
  with sharding.use(sharding.make_mesh(jax.devices()[:4])):
    state = new_state(task, jax.random.key(0))
    got, told = compiled_step(task)(state, sharding.send(batch))
    got, told = jax.device_get((got, told))
  assert_equal(task, got, told, want)


def test_a_loss_that_breaks_on_one_device_says_where():
  batch = make_batch()
  batch.inputs.dense[-1, 1], batch.weights[-1] = np.nan, 1
  with sharding.use(sharding.make_mesh(jax.devices()[:4])):
    task = make_task('sgd')
    state = new_state(task, jax.random.key(0))
    _, told = compiled_step(task)(state, sharding.send(batch))
  bad = [name for name, x in told.largest.items() if not np.isfinite(x)]
  assert bad == ['dense features', 'logits', 'loss']


@pytest.mark.slow
def test_devices_exchange_gradients_of_layers_once_whatever_the_pieces():
  counts = set()
  for micro_batch in (512, 64):
    task = make_task('sgd', micro_batch)
    with sharding.use(sharding.make_mesh(jax.devices()[:4])):
      state = new_state(task, jax.random.key(0))
      step = compiled_step(task).lower(state, sharding.send(make_batch()))
    counts.add(step.compile().as_text().count(' all-reduce('))
  assert len(counts) == 1


def test_memory_of_activations_falls_with_the_pieces():
  sizes = []
  for micro_batch in (BATCH, 128):
    task = make_task('sgd', micro_batch)
    model = DLRM((256, DIM), (256,))
    network = dataclasses.replace(task.network, model=model)
    task = dataclasses.replace(task, network=network)
    state = new_state(task, jax.random.key(0))
    step = jax.jit(functools.partial(train_step, task), donate_argnums=0)
    memory = step.lower(state, make_batch()).compile().memory_analysis()
    sizes.append(memory.temp_size_in_bytes)
  assert sizes[1] < sizes[0] / 2


def test_pieces_are_equal_and_of_a_size_that_fits_a_cache():
  assert [count_pieces(n, None) for n in (64, 1000, 1024, 2048, 16384)] == [
    1, 1, 2, 2, 16,
  ]  # fmt: skip
  for examples in range(1, 5000, 7):
    pieces = count_pieces(examples, None)
    assert examples % pieces == 0
    assert pieces == 1 or 256 <= examples // pieces <= 1024


def test_a_micro_batch_larger_than_a_device_s_part_is_that_part():
  assert count_pieces(64, 128) == 1
  with pytest.raises(InputError, match='micro_batch is 48; expected a divisor'):
    count_pieces(64, 48)
