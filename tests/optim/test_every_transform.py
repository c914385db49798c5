"""Every transform of Optax equals the dense one on touched rows, or is refused.

Transforms are found by what they return, so new ones are tested, too. Those
that need another argument than a number are built by hand.
"""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from dlrm_jax.batch import PAD
from dlrm_jax.errors import InputError
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.rowwise import has_rows, rowwise, with_counters
from dlrm_jax.rows import RowGrads, add

BUILT = {
  'ours adagrad': scale_by_adagrad,
  'ours rowwise_adagrad': scale_by_rowwise_adagrad,
  'apply_if_finite': lambda: optax.apply_if_finite(optax.sgd(0.1), 3),
  'chain': lambda: optax.chain(optax.clip(0.5), optax.adam(0.1)),
  'chain with a norm': lambda: optax.chain(
    optax.sgd(0.1), optax.clip_by_global_norm(1.0)
  ),
  'conditionally_mask': lambda: optax.conditionally_mask(
    optax.sgd(0.1), lambda step: step < 2
  ),
  'dpsgd': lambda: optax.contrib.dpsgd(0.1, 1.0, 0.1, seed=0),
  'flatten': lambda: optax.flatten(optax.adam(0.1)),
  'inject_hyperparams': lambda: optax.inject_hyperparams(optax.adam)(0.1),
  'lookahead': lambda: optax.lookahead(optax.sgd(0.1), 5, 0.5),
  'masked': lambda: optax.masked(optax.adam(0.1), {'a': True, 'b': False}),
  'mechanize': lambda: optax.contrib.mechanize(optax.sgd(0.1)),
  'multi_steps': lambda: optax.MultiSteps(
    optax.sgd(0.1), 2
  ).gradient_transformation(),
  'partition': lambda: optax.partition(
    {0: optax.sgd(0.1), 1: optax.adam(0.1)}, {'a': 0, 'b': 1}
  ),
  'schedule': lambda: optax.scale_by_schedule(
    optax.linear_schedule(1.0, 0.0, 9)
  ),
  'schedule_free': lambda: optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
  'sign': lambda: optax.stateless(lambda g, _: jax.tree.map(jnp.sign, g)),
  'mean of rows': lambda: optax.stateless(
    lambda g, _: jax.tree.map(lambda x: x - jnp.mean(x, 0, keepdims=True), g)
  ),
  'number of rows': lambda: optax.stateless(
    lambda g, _: jax.tree.map(lambda x: x / len(x), g)
  ),
  'per row': lambda: optax.stateless(
    lambda g, _: jax.tree.map(
      lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True, ord=1), g
    )
  ),
}

FAST = {
  'adafactor', 'adam', 'centralize', 'clip_by_global_norm', 'lamb', 'lion',
  'number of rows', 'ours rowwise_adagrad', 'partition', 'radam',
}  # fmt: skip
SEPARABLE = {
  'adabelief', 'adadelta', 'adagrad', 'adam', 'adamax', 'adamw', 'adan',
  'add_decayed_weights', 'amsgrad', 'centralize', 'chain', 'clip', 'ema',
  'identity', 'lion', 'nadam', 'ours adagrad', 'ours rowwise_adagrad',
  'per row', 'radam', 'rmsprop', 'rprop', 'schedule', 'sgd', 'sign',
  'sign_sgd', 'trace', 'yogi',
}  # fmt: skip
NOT_SEPARABLE = {
  'adafactor', 'adaptive_grad_clip', 'add_noise', 'apply_if_finite',
  'chain with a norm', 'clip_by_block_rms', 'clip_by_global_norm', 'fromage',
  'lamb', 'lars', 'mean of rows', 'noisy_sgd', 'normalize', 'novograd',
  'number of rows', 'partition', 'scale_by_factored_rms',
  'scale_by_trust_ratio', 'sm3',
}  # fmt: skip


def transforms():
  """Functions of Optax that return a transform, by name."""
  found = {}
  for module in (optax, optax.contrib):
    for name, function in inspect.getmembers(module, callable):
      try:
        result = str(inspect.signature(function).return_annotation)
      except ValueError:
        continue
      if 'GradientTransformation' in result and not name.startswith('_'):
        found[name] = function
  return found


def build(name):
  if name in BUILT:
    return BUILT[name]()
  function = transforms()[name]
  arguments = {
    k: 0.1
    for k, p in inspect.signature(function).parameters.items()
    if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
  }
  return function(**arguments)


def built():
  """Transforms by name, without those that take functions or other objects."""
  found = {}
  for name in sorted({*BUILT, *transforms()}):
    try:
      with warnings.catch_warnings(action='ignore'):
        found[name] = build(name)
    except Exception:
      assert name not in {*SEPARABLE, *NOT_SEPARABLE, *BUILT}
  return found


TRANSFORMS = built()


def refusal(inner):
  try:
    rowwise(inner)
  except InputError as error:
    return str(error)
  return ''


def cases():
  for name in TRANSFORMS:
    yield pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)


@pytest.mark.parametrize('name', [*cases()])
@jax.numpy_dtype_promotion('standard')
@jax.numpy_rank_promotion('allow')
@pytest.mark.filterwarnings('ignore')
def test_it_is_the_dense_one_on_touched_rows_or_refused(name):
  if refused := refusal(TRANSFORMS[name]):
    assert name not in SEPARABLE, refused
    assert 'optimizer of tables: ' in refused
  else:
    assert name not in NOT_SEPARABLE
    check_equal_on_touched_rows(TRANSFORMS[name])


SHAPES = {'a': (9, 4), 'b': (6, 4)}
TOUCHED = {'a': [7, 0, 3, 4], 'b': [5, 2]}


def check_equal_on_touched_rows(inner):
  """Some rows in each step, in another order and repeated, with PAD beside."""
  tx, rng = rowwise(inner), np.random.default_rng(0)

  def draw(sizes):
    return {
      name: rng.normal(size=(n, 4)).astype(np.float32)
      for name, n in sizes.items()
    }

  tables = jax.tree.map(jnp.array, draw({k: n for k, (n, _) in SHAPES.items()}))
  first = tables
  part = {k: tables[k][jnp.array(rows)] for k, rows in TOUCHED.items()}
  state, dense_state = tx.init(tables), inner.init(part)
  step = jax.jit(tx.update)
  for _ in range(4):
    grads = draw({k: len(rows) for k, rows in TOUCHED.items()})
    updates, dense_state = inner.update(
      jax.tree.map(jnp.array, grads), dense_state, part
    )
    part = optax.apply_updates(part, updates)
    sparse = {k: scattered(rng, TOUCHED[k], g) for k, g in grads.items()}
    updates, state = step(sparse, state, tables)
    tables = {k: add(tables[k], updates[k]) for k in tables}
  for name, rows in TOUCHED.items():
    at = np.array(rows)
    others = np.delete(np.arange(len(tables[name])), at)
    close(tables[name][at], part[name])
    np.testing.assert_array_equal(tables[name][others], first[name][others])
  is_rows = has_rows(tx, state)
  rows_of_state = optax.tree.map_params(
    tx.init, lambda x, rows: x[np.array(rows)], jax.device_get(state), TOUCHED
  )
  jax.tree.map(close, rows_of_state, jax.device_get(dense_state))
  assert jax.tree.structure(is_rows) == jax.tree.structure(state)


def scattered(rng, rows, grads):
  """Gradients of rows, each in two parts, in any order, with PAD and more."""
  part = rng.normal(size=grads.shape).astype(np.float32)
  all_rows = np.array([*rows, PAD, *rows, 10**6, PAD], np.int32)
  junk = rng.normal(size=(3, grads.shape[1])).astype(np.float32)
  values = np.concatenate([part, junk[:1], grads - part, junk[1:]])
  order = rng.permutation(len(all_rows))
  return RowGrads(jnp.array(all_rows[order]), jnp.array(values[order]))


def close(x, y):
  np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5)


def test_the_message_says_why():
  for name, why in {
    'clip_by_global_norm': 'the update of a row depends on other rows',
    'adafactor': r'its state of a table of \(1024, 256\) has the shape \(256',
    'polyak_sgd': r'it fails on rows alone \(TypeError',
  }.items():
    with pytest.raises(InputError, match=f'{why}.*; expected a transform'):
      rowwise(TRANSFORMS[name])


def test_counters_come_from_one_state_and_rows_from_another():
  tx = rowwise(optax.scale_by_adam())
  state = tx.init({'a': jnp.zeros((3, 2))})
  one = state._replace(count=jnp.int32(1), mu={'a': jnp.ones((3, 2))})
  two = state._replace(count=jnp.int32(2), mu={'a': jnp.full((3, 2), 2.0)})
  both = with_counters(tx, one, two)
  assert both.count == 2
  np.testing.assert_array_equal(both.mu['a'], 1.0)
  kinds = has_rows(tx, state)
  assert (kinds.count, kinds.mu, kinds.nu) == (False, {'a': True}, {'a': True})
