import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax import rows as rows_module
from dlrm_jax.batch import PAD
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


DTYPES = 'float32', 'bfloat16', 'uint8'  # of storages of rows


@pytest.mark.slow
@given(
  st.integers(0, 2**32 - 1),
  st.sampled_from([1, 4, 16, 64]),
  st.sampled_from(DTYPES),
)
def test_packed_rows_on_a_tpu_are_those_of_any_device(seed, dim, dtype):
  """The doors that a TPU uses, called here by themselves."""
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return jnp.array(rng.integers(0, 200, shape)).astype(dtype)

  packed = draw(8, 128)
  count = packed.size // dim
  drawn = rng.permutation(np.arange(-3, count + 3))[:7].astype(np.int32)
  rows = jnp.array(drawn[drawn != -2])
  new = draw(len(rows), dim)
  taken = rows_module._take_packed(packed, rows, dim)
  assert taken.dtype == packed.dtype
  np.testing.assert_array_equal(taken, take(packed, rows, dim))
  put_there = rows_module._put_packed(packed, rows, new)
  assert put_there.dtype == packed.dtype
  np.testing.assert_array_equal(put_there, put(packed, rows, new))
  if dtype == 'float32':
    added = rows_module._add_packed(packed, rows, new)
    want = add(packed, RowGrads(rows, new))
    np.testing.assert_allclose(added, want, rtol=1e-6)


def test_packed_rows_are_read_and_written_as_plain_ones():
  plain = jnp.arange(512, dtype=jnp.float32).reshape(128, 4)
  packed = plain.reshape(4, 128)
  rows = jnp.array([5, PAD, 127, 128])
  new = -jnp.ones((4, 4))
  np.testing.assert_array_equal(take(packed, rows, 4), take(plain, rows))
  np.testing.assert_array_equal(
    put(packed, rows, new).reshape(128, 4), put(plain, rows, new)
  )


@pytest.mark.slow
@given(any_rows, st.sampled_from([1, 2, 8]), st.sampled_from([4, 128]))
def test_repeated_rows_and_rows_of_bags_all_add_up(rows, length, dim):
  bags = np.array(rows, np.int32).reshape(-1, length)
  values = np.arange(len(bags) * dim, dtype=np.float32).reshape(-1, dim)
  want = np.ones((11, dim), np.float32)  # the last row is for PAD
  np.add.at(want, bags, np.repeat(values[:, None], length, 1))
  want[-1] = 1
  want = np.concatenate([want, np.ones((21, dim), np.float32)])
  grads = RowGrads(jnp.array(bags), jnp.array(values))
  start = jnp.ones((32 * dim // 128, 128))
  for repeated in (grads, grads.flat()):
    got = add(start, sum_repeated(repeated))
    np.testing.assert_allclose(got.reshape(-1, dim), want)
