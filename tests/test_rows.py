import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax.rows import (
  RowGrads,
  add,
  put,
  representatives,
  sum_repeated,
  take,
)

any_rows = st.lists(st.integers(-1, 9), min_size=24, max_size=24)
find = jax.jit(representatives)
summed = jax.jit(sum_repeated)


def test_rows_that_are_not_there_read_as_zero():
  table = jnp.arange(1, 7, dtype=jnp.float32).reshape(3, 2)
  got = take(table, jnp.array([-1, 2, 3, -7]))
  np.testing.assert_array_equal(got, [[0, 0], [5, 6], [0, 0], [0, 0]])


def test_rows_that_are_not_there_are_not_written():
  table = jnp.ones((2, 1))
  rows, new = jnp.array([-1, 2]), jnp.full((2, 1), 9.0)
  np.testing.assert_array_equal(put(table, rows, new), table)
  np.testing.assert_array_equal(add(table, RowGrads(rows, new)), table)


@given(any_rows)
def test_equal_rows_share_one_representative(rows):
  found = np.asarray(find(jnp.array(rows, jnp.int32)))
  for i, first in enumerate(found):
    assert rows[first] == rows[i]
    assert found[first] == first
  assert len(set(found)) == len(set(rows))


def test_many_colliding_rows_are_resolved():
  rows = jnp.arange(5000, dtype=jnp.int32) * 65536
  found = find(rows)
  np.testing.assert_array_equal(found, np.arange(5000))


@given(any_rows)
def test_repeated_rows_are_summed_and_others_stand_alone(rows):
  values = np.arange(len(rows), dtype=np.float32)[:, None]
  got = summed(RowGrads(jnp.array(rows, jnp.int32), jnp.array(values)))
  want = np.zeros((10, 1))
  for row, value in zip(rows, values, strict=True):
    if row >= 0:
      want[row] += value
  assert len(set(got.rows.tolist())) == len(rows)
  np.testing.assert_allclose(add(jnp.zeros((10, 1)), got), want)
