"""Steps beside plain Optax on whole tables: dense updates, clipping, branches.

The plain side has no stacks, placements or row gradients: tables are arrays,
and what a bag gives is a sum over them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlrm_jax import sharding
from dlrm_jax.losses import binary_cross_entropy
from dlrm_jax.optim.adagrad import scale_by_rowwise_adagrad
from dlrm_jax.training.state import new_state
from dlrm_jax.training.step import compiled_step, train_step
from tests import family

L2, RATE, LIMIT = 0.05, 0.1, 0.1
SCALES = {
  'sgd': optax.identity,
  'adam': optax.scale_by_adam,
  'rowwise_adagrad': scale_by_rowwise_adagrad,
}


def tables_of(task, state):
  """All tables by name, f32[R, D]."""
  tables = jax.device_get(state.tables)
  return {
    t.name: jnp.asarray(task.collection.read(tables, t.name))
    for t in task.collection.tables
  }


def vectors_of(task, tables, ids, ending=''):
  """Sums of bags by role, f32[B, F, D]; of roles with this ending alone."""
  columns, at = {}, 0
  for column in family.schema_of('dlrm').sparse:
    columns[column.name] = ids[:, at : at + column.hotness]
    at += column.hotness
  found = {}
  for feature in task.collection.features:
    if feature.role.endswith(ending):
      table = tables[feature.encoding.tables[0].name]
      padded = jnp.concatenate([table, jnp.zeros((1, table.shape[1]))])
      bags = jnp.sum(padded[columns[feature.column]], 1)
      found.setdefault(feature.role.removesuffix(ending), []).append(bags)
  return {role: jnp.stack(vectors, 1) for role, vectors in found.items()}


def weighted_loss(logits, vectors, batch, bag_l2=0.0):
  """Weighted mean cross entropy: with the penalty of vectors, and without."""
  share = batch.weights / np.sum(batch.weights)
  losses = binary_cross_entropy(logits, batch.labels)
  loss = jnp.sum(share[:, None] * losses)
  squares = sum(
    jnp.sum(share[:, None, None] * jnp.square(x)) for x in vectors.values()
  )
  return loss + 0.5 * bag_l2 * squares, loss


def plain_loss(task, weights, batch, bag_l2):
  """`weighted_loss` of weights, which are parameters and tables."""
  params, tables = weights
  vectors = vectors_of(task, tables, batch.inputs.ids)
  logits = task.network.model.apply(
    {'params': params['model']}, batch.inputs.dense, vectors
  )
  return weighted_loss(logits, vectors, batch, bag_l2)


def plain_steps(task, weights, optimizers, steps, bag_l2):
  """Losses and weights after steps of whole gradients.

  Args:
    task: the task, for its features and its model.
    weights: parameters and tables.
    optimizers: of the parameters and of the tables, behind the clipping.
    steps: number of steps.
    bag_l2: penalty of the vectors of an example.
  """
  txs = optimizers
  states = [tx.init(part) for tx, part in zip(txs, weights, strict=True)]
  clip = optax.clip_by_global_norm(task.clip or 1e9)
  losses = []
  for seed in range(steps):
    batch = family.batch_of('dlrm', seed)
    loss = functools.partial(plain_loss, task, batch=batch, bag_l2=bag_l2)
    grads, told = jax.jit(jax.grad(loss, has_aux=True))(weights)
    losses.append(float(told))
    assert task.clip is None or optax.tree.norm(grads) > task.clip
    grads, _ = clip.update(grads, clip.init(weights))
    moved = []
    for i, (tx, part) in enumerate(zip(txs, weights, strict=True)):
      updates, states[i] = tx.update(grads[i], states[i], part)
      moved.append(optax.apply_updates(part, updates))
    weights = tuple(moved)
  return losses, weights


def compare(fields, optimizers, devices, bag_l2=0.0):
  """Three steps beside three plain ones."""
  task = family.task_of('dlrm', fields)
  with family.on(devices):
    state = new_state(task, jax.random.key(0))
    weights = jax.device_get(state.params), tables_of(task, state)
    step, losses = compiled_step(task), []
    for seed in range(3):
      state, told = step(state, sharding.send(family.batch_of('dlrm', seed)))
      losses.append(float(told.loss))
  wanted = plain_steps(task, weights, optimizers, 3, bag_l2)
  found = losses, (jax.device_get(state.params), tables_of(task, state))
  family.assert_close(found, wanted)


def cases():
  for name in SCALES:
    for devices in (1, 4):
      for clip in (0.0, LIMIT):
        quick = (name, devices, clip) == ('adam', 1, LIMIT)
        marks = [] if quick else [pytest.mark.slow]
        yield pytest.param(name, devices, clip, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'devices', 'clip'), [*cases()])
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_a_dense_update_with_l2_is_optax_on_the_whole_table(
  name, devices, clip
):
  fields = {
    'tables.update': 'dense',
    'tables.l2': L2,
    'tables.init': 'normal',
    'train.clip': clip,
    'table_optimizer.name': name,
    'table_optimizer.learning_rate': RATE,
  }
  of_tables = optax.chain(
    optax.add_decayed_weights(L2), SCALES[name](), optax.scale(-RATE)
  )
  compare(fields, (optax.sgd(0.3), of_tables), devices)


@pytest.mark.slow
@pytest.mark.parametrize('devices', [1, 4])
def test_l2_of_layers_and_decay_of_weights_are_those_of_optax(devices):
  fields = {
    'tables.update': 'dense',
    'model.l2': L2,
    'optimizer.weight_decay': 0.02,
    'table_optimizer.weight_decay': 0.03,
  }

  def kernels(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)

  of_layers = optax.chain(
    optax.add_decayed_weights(L2, kernels),
    optax.add_decayed_weights(0.02, kernels),
    optax.scale(-0.3),
  )
  of_tables = optax.chain(optax.add_decayed_weights(0.03), optax.scale(-0.3))
  compare(fields, (of_layers, of_tables), devices)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('update', 'devices'),
  [
    ('sparse', 1),
    *(
      pytest.param(update, devices, marks=pytest.mark.slow)
      for update, devices in (('sparse', 4), ('dense', 1), ('dense', 4))
    ),
  ],
)
def test_l2_of_bags_is_the_mean_over_examples(update, devices):
  fields = {
    'tables.update': update,
    'tables.bag_l2': L2,
    'tables.placement': 'row_wise' if update == 'sparse' else 'auto',
    'train.micro_batch': 8,
  }
  compare(fields, (optax.sgd(0.3), optax.sgd(0.3)), devices, bag_l2=L2)


@pytest.mark.slow
@pytest.mark.parametrize('devices', [1, 4])
def test_sparse_updates_are_clipped_by_the_norm_of_summed_rows(devices):
  fields = {'tables.placement': 'row_wise', 'train.clip': LIMIT}
  compare(fields, (optax.sgd(0.3), optax.sgd(0.3)), devices)


@pytest.mark.slow
@pytest.mark.parametrize('update', ['sparse', 'dense'])
def test_branches_are_models_of_their_own(update):
  """Their losses are added, their logits averaged, and nothing is shared.

  The loss that is told is the mean over branches.
  """
  fields = {
    'model.branches': 2,
    'tables.update': update,
    'tables.bag_l2': L2,
  }
  both = family.task_of('dlrm', fields)
  alone = family.task_of('dlrm')
  batch = family.batch_of('dlrm', 0)
  state = new_state(both, jax.random.key(0))
  tables, model = tables_of(both, state), alone.network.model
  new, told = jax.jit(functools.partial(train_step, both))(state, batch)
  losses, logits = [], []
  for k in range(2):
    ending = f'.b{k}'

    def score(params, tables, ending=ending):
      vectors = vectors_of(both, tables, batch.inputs.ids, ending)
      logits = model.apply({'params': params}, batch.inputs.dense, vectors)
      return logits, vectors

    def loss(params, tables, score=score):
      logits, vectors = score(params, tables)
      return weighted_loss(logits, vectors, batch, L2)

    params = state.params['model'][f'branch_{k}']
    own = {name: x for name, x in tables.items() if name.endswith(ending)}
    assert len(own) == len(tables) / 2
    grads, value = jax.grad(loss, (0, 1), has_aux=True)(params, own)
    moved = jax.tree.map(lambda x, g: x - 0.3 * g, (params, own), grads)
    after = tables_of(both, new)
    found = new.params['model'][f'branch_{k}'], {n: after[n] for n in own}
    family.assert_close(found, moved)
    losses.append(value)
    logits.append(score(params, own)[0])
  np.testing.assert_allclose(told.loss, np.mean(losses), rtol=1e-5)
  assert not np.allclose(*logits)
  outputs = both.network.outputs(state.layers, state.tables, batch.inputs)
  np.testing.assert_allclose(outputs, sum(logits) / 2, rtol=1e-4, atol=1e-6)


def test_a_lowered_rate_moves_everything_by_so_much_less():
  features = {'C1': {'update': 'dense'}}
  fields = {'train.plateau.patience': 1, 'tables.features': features}
  task = family.task_of('dlrm', fields)
  state, batch = new_state(task, jax.random.key(0)), family.batch_of('dlrm', 0)
  step = jax.jit(functools.partial(train_step, task))
  moves = []
  for factor in (1.0, 0.25):
    after, _ = step(state.replace(factor=jnp.float32(factor)), batch)
    assert after.factor == factor
    moves.append(
      jax.tree.map(
        jnp.subtract, (after.params, after.tables), (state.params, state.tables)
      )
    )
  family.assert_close(moves[1], jax.tree.map(lambda x: x / 4, moves[0]))
  assert max(jnp.max(jnp.abs(x)) for x in jax.tree.leaves(moves[1])) > 0.001
