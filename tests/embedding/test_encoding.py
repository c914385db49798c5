import jax.numpy as jnp
import numpy as np

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.encoding import Hashed, Plain
from dlrm_jax.embedding.table import Table


def test_hashed_rows_are_in_the_table_and_pad_stays_pad():
  ids = jnp.array([[PAD, 0, 1, 2**31 - 1]], jnp.int32)
  (rows,) = Hashed(Table('t', 7, 4)).rows(ids)
  assert rows.dtype == jnp.int32
  assert rows[0, 0] == PAD
  assert ((rows[0, 1:] >= 0) & (rows[0, 1:] < 7)).all()


def test_hashed_rows_are_spread_evenly_for_regular_ids():
  ids = jnp.arange(0, 64_000, 64, dtype=jnp.int32)[None]
  (rows,) = Hashed(Table('t', 64, 4)).rows(ids)
  counts = np.bincount(np.asarray(rows[0]), minlength=64)
  assert counts.max() < 3 * counts.mean()


def test_plain_ids_are_rows():
  ids = jnp.array([[3, PAD]], jnp.int32)
  np.testing.assert_array_equal(Plain(Table('t', 7, 4)).rows(ids)[0], ids)
