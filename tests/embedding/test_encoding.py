import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.encoding import Composed, Plain, Projected
from dlrm_jax.embedding.operations import Add
from dlrm_jax.embedding.partitions import Hashes, QuotientRemainder
from dlrm_jax.embedding.table import Table

HASHED = Composed((Table('t', 7, 4),), Hashes(2**31 - 1, (7,)), Add(), 4)


def test_hashed_rows_are_in_the_table_and_pad_stays_pad():
  ids = jnp.array([[PAD, 0, 1, 2**31 - 2]], jnp.int32)
  (rows,) = HASHED.rows(ids)
  assert rows.dtype == jnp.int32
  assert rows[0, 0] == PAD
  assert ((rows[0, 1:] >= 0) & (rows[0, 1:] < 7)).all()


def test_plain_ids_are_rows():
  ids = jnp.array([[3, PAD]], jnp.int32)
  np.testing.assert_array_equal(Plain(Table('t', 7, 4)).rows(ids)[0], ids)


@pytest.mark.parametrize(
  'encoding',
  [
    Plain(Table('t', 7, 4)),
    Projected(Table('t', 7, 2), 4),
    Composed(
      (Table('a', 3, 4), Table('b', 3, 4)),
      QuotientRemainder(7, (3, 3)),
      Add(),
      4,
    ),
    Composed((Table('t', 3, 4),), Hashes(7, (3,)), Add(), 4),
  ],
)
def test_ids_that_an_encoding_does_not_know_have_no_rows(encoding):
  assert encoding.ids == 7
  ids = jnp.array([[0, 6, 7, 8, 2**31 - 1, PAD]], jnp.int32)
  for rows, table in zip(encoding.rows(ids), encoding.tables, strict=True):
    assert ((rows[0, :2] >= 0) & (rows[0, :2] < table.rows)).all()
    assert ((rows[0, 2:] == PAD) | (rows[0, 2:] >= table.rows)).all()
