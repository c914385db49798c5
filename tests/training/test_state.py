import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.table import Table
from dlrm_jax.losses import binary_cross_entropy
from dlrm_jax.models.dlrm import DLRM
from dlrm_jax.optim.adagrad import scale_by_adagrad
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.training.heads import Head
from dlrm_jax.training.state import Task, create_state, fresh_tables

TASK = Task(
  network=Network(
    collection=EmbeddingCollection((Feature('x', Plain(Table('x', 9, 4))),)),
    model=DLRM((8, 4), (8,)),
    dense_features=3,
  ),
  heads=(Head(binary_cross_entropy),),
  tx=optax.sgd(0.1),
  table_tx=rowwise(
    optax.chain(scale_by_adagrad(), optax.scale_by_learning_rate(lambda k: k))
  ),
)


def test_a_state_is_a_function_of_its_key():
  one, same, other = (create_state(TASK, jax.random.key(k)) for k in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, one, same)
  assert (one.tables['rows_4'] != other.tables['rows_4']).any()
  kernels = [
    s.params['model']['top']['dense_0']['kernel'] for s in (one, other)
  ]
  assert (kernels[0] != kernels[1]).any()


def test_fresh_tables_keep_the_layers_and_the_step():
  state = create_state(TASK, jax.random.key(0))
  used = jax.tree.map(lambda x: x + jnp.ones_like(x), state)
  fresh = fresh_tables(TASK, used, jax.random.key(7))
  jax.tree.map(np.testing.assert_array_equal, fresh.params, used.params)
  assert fresh.step == used.step
  assert np.abs(fresh.tables['rows_4']).max() <= 1 / 3
  assert (fresh.tables['rows_4'] != state.tables['rows_4']).any()
  sums, schedule = fresh.table_state
  assert not sums.sum_of_squares['rows_4'].any()
  assert schedule.count == 1  # the schedule goes on
  assert used.tables['rows_4'].is_deleted()
