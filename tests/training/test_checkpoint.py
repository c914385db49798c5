import jax
import numpy as np
import optax
import pytest

from dlrm_jax.embedding.collection import EmbeddingCollection, Feature
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.table import Table
from dlrm_jax.errors import InputError
from dlrm_jax.losses import binary_cross_entropy
from dlrm_jax.models.dlrm import DLRM
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.training.checkpoint import Checkpoints
from dlrm_jax.training.state import Task, abstract_state, create_state


def make_task(rows=9):
  table = Table('x', rows, 4)
  return Task(
    collection=EmbeddingCollection((Feature('x', Plain(table)),)),
    model=DLRM((4,), (4,)),
    dense_features=1,
    loss=binary_cross_entropy,
    tx=optax.adam(0.1),
    table_tx=rowwise(optax.adam(0.1)),
  )


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Six checkpoints, the second one with the best AUC; two are kept."""
  folder = tmp_path_factory.mktemp('checkpoints')
  state = create_state(make_task(), jax.random.key(0))
  checkpoints = Checkpoints(folder, keep=2)
  for step, auc in enumerate((0.5, 0.9, 0.6, None, 0.7, 0.8), 1):
    checkpoints.save(step, state, None if auc is None else {'auc': auc})
  checkpoints.close()
  return folder, state


def test_the_last_ones_and_the_best_are_kept(saved):
  checkpoints = Checkpoints(saved[0])
  assert checkpoints.steps == [2, 5, 6]
  assert checkpoints.best == 2
  assert checkpoints.latest == 6
  checkpoints.close()


def test_a_state_comes_back_bit_equal(saved):
  checkpoints = Checkpoints(saved[0])
  restored = checkpoints.restore(2, abstract_state(make_task()))
  checkpoints.close()
  jax.tree.map(np.testing.assert_array_equal, restored, saved[1])


def test_a_table_of_another_size_is_named_with_both_shapes(saved):
  checkpoints = Checkpoints(saved[0])
  with pytest.raises(InputError, match=r'\(9, 4\) .* \(8, 4\)'):
    checkpoints.restore(2, abstract_state(make_task(8)))
  checkpoints.close()


def test_a_step_that_was_not_kept_is_refused(saved):
  checkpoints = Checkpoints(saved[0])
  with pytest.raises(InputError, match='step 3; there are: 2, 5, 6'):
    checkpoints.restore(3, abstract_state(make_task()))
  checkpoints.close()


def test_without_checkpoints_there_is_none(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'none')
  assert checkpoints.best is None
  assert checkpoints.latest is None
  checkpoints.close()
