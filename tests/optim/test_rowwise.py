import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlrm_jax.batch import PAD
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.rows import RowGrads, add

ROWS, DIM = 20, 4

TRANSFORMS = {
  'sgd': optax.sgd(0.1),
  'adagrad': optax.chain(scale_by_adagrad(), optax.scale(-0.1)),
  'optax_adagrad': optax.adagrad(0.1),
  'rowwise_adagrad': optax.chain(scale_by_rowwise_adagrad(), optax.scale(-0.1)),
  'scheduled': optax.sgd(optax.linear_schedule(0.1, 0.0, 10)),
}


def draw(step):
  """Rows with repeats, PAD and one out of range; values."""
  rng = np.random.default_rng(step)
  rows = rng.integers(-1, ROWS, 9).astype(np.int32)
  rows[:4] = 3, 3, ROWS + 5, PAD
  return rows, rng.normal(size=(9, DIM)).astype(np.float32)


def dense(rows, values):
  grads = np.zeros((ROWS, DIM), np.float32)
  for row, value in zip(rows, values, strict=True):
    if 0 <= row < ROWS:
      grads[row] += value
  return jnp.array(grads)


@pytest.mark.parametrize('name', TRANSFORMS)
def test_touched_rows_move_as_with_the_dense_gradient(name):
  inner = TRANSFORMS[name]
  sparse = rowwise(inner)
  want = got = {'t': jax.random.normal(jax.random.key(1), (ROWS, DIM))}
  want_state, got_state = inner.init(want), sparse.init(got)
  for step in range(5):
    rows, values = draw(step)
    updates, want_state = inner.update({'t': dense(rows, values)}, want_state)
    want = optax.apply_updates(want, updates)
    grads = {'t': RowGrads(jnp.array(rows), jnp.array(values))}
    updates, got_state = sparse.update(grads, got_state, got)
    got = {'t': add(got['t'], updates['t'])}
  np.testing.assert_allclose(got['t'], want['t'], rtol=1e-5, atol=1e-6)
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-5),
    got_state,
    want_state,
  )


def test_sgd_loses_no_updates_that_are_smaller_than_a_rounding_error():
  """A hot row's many small gradients are summed before they meet it."""
  table, count = jnp.ones((3, 1)), 4096
  tx = rowwise(optax.sgd(1.0))
  grads = RowGrads(
    jnp.zeros(count, jnp.int32), jnp.full((count, 1), np.float32(1e-8))
  )
  updates, _ = tx.update(grads, tx.init(table))
  np.testing.assert_allclose(add(table, updates)[0], 1 - 1e-8 * count)


@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_adam_is_lazy_rows_rest_until_they_are_seen():
  tx = rowwise(optax.adam(0.1))
  table = jnp.zeros((3, 1))
  state = tx.init(table)
  for row in (0, 1, 1):
    grads = RowGrads(jnp.array([row]), jnp.ones((1, 1)))
    updates, state = tx.update(grads, state)
    table = add(table, updates)
  mu = optax.tree.get(state, 'mu')
  np.testing.assert_allclose(mu[:, 0], [0.1, 0.19, 0.0], rtol=1e-6)
  assert optax.tree.get(state, 'count') == 3
  assert table[2, 0] == 0.0


def test_weight_decay_moves_touched_rows_only():
  tx = rowwise(optax.add_decayed_weights(1.0))
  table = jnp.array([[2.0], [3.0]])
  grads = RowGrads(jnp.array([1]), jnp.zeros((1, 1)))
  updates, _ = tx.update(grads, tx.init(table), table)
  np.testing.assert_array_equal(add(table, updates), [[2.0], [6.0]])


def test_the_two_adagrads_differ_as_documented():
  g = {'t': jnp.array([2.0])}
  torch, _ = scale_by_adagrad().update(g, scale_by_adagrad().init(g))
  tx = optax.scale_by_rss(0.1, 1e-7)
  other, _ = tx.update(g, tx.init(g))
  np.testing.assert_allclose(torch['t'], [1.0], rtol=1e-6)
  np.testing.assert_allclose(other['t'], [2 / np.sqrt(4.1)], rtol=1e-6)


def test_state_of_rowwise_adagrad_is_one_number_a_row():
  state = scale_by_rowwise_adagrad().init({'t': jnp.zeros((7, 3))})
  assert state.sum_of_squares['t'].shape == (7,)
