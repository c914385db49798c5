import jax.numpy as jnp
import numpy as np

from dlrm_jax.embedding.table import uniform_by_cells

SHAPE = (4000, 32)
ROWS = jnp.arange(SHAPE[0], dtype=jnp.int32)


def draw(seed, rows=ROWS, bound=1.0):
  columns = jnp.arange(SHAPE[1], dtype=jnp.int32)[None]
  made = uniform_by_cells(
    jnp.uint32(seed), rows[:, None], columns, jnp.float32(bound)
  )
  return np.asarray(made)


def test_first_values_are_uniform_within_the_bound():
  values = draw(0, bound=0.25) / 0.25
  assert np.abs(values).max() <= 1
  np.testing.assert_allclose(values.mean(), 0, atol=5e-3)
  np.testing.assert_allclose(np.square(values).mean(), 1 / 3, rtol=5e-3)
  counts, _ = np.histogram(values, 16, (-1, 1))
  np.testing.assert_allclose(counts / values.size, 1 / 16, rtol=0.05)


def test_columns_and_neighbouring_rows_are_uncorrelated():
  values = draw(3)
  beside = np.concatenate([values[1:], values[:-1]], 1)
  correlation = np.corrcoef(beside.T) - np.eye(64)
  assert np.abs(correlation).max() < 0.08


def test_seeds_make_different_tables():
  assert abs(np.corrcoef(draw(0).ravel(), draw(1).ravel())[0, 1]) < 0.02


def test_any_part_of_a_table_can_be_made_by_itself():
  some = jnp.array([7, 3999, 0], jnp.int32)
  np.testing.assert_array_equal(draw(5, some), draw(5)[np.asarray(some)])
