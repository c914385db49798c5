"""Which checkpoints of a run there are, and which one a word names."""

import shutil

import jax
import numpy as np
import pytest

from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.errors import InputError
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.training.state import abstract_state, new_state
from tests import family


@pytest.fixture(scope='module')
def task():
  return family.task_of('lr')


@pytest.fixture(scope='module')
def folder(task, tmp_path_factory):
  """Checkpoints of three steps; the second has the best AUC."""
  path = tmp_path_factory.mktemp('saved') / 'checkpoints'
  with family.on(1):
    layout = task.collection.layout
    checkpoints = Checkpoints(path, layout, 3)
    for step, auc in ((3, 0.6), (10, 0.8), (20, 0.7)):
      state = new_state(task, jax.random.key(step))
      metrics = {'auc': auc, 'log_loss': auc / 2}
      checkpoints.save(step, state, metrics)
    checkpoints.close()
  return path


def saved(folder, task, *objective):
  return Saved(folder, task.collection.layout, *objective)


def test_steps_ascend(folder, task):
  found = saved(folder, task)
  assert found.steps == [3, 10, 20]
  assert (found.best, found.latest) == (10, 20)
  assert found.metrics(10) == {'auc': 0.8, 'log_loss': 0.4}


def test_the_objective_decides_the_best(folder, task):
  assert saved(folder, task, Objective('log_loss', higher=False)).best == 3
  assert saved(folder, task, Objective('ne', higher=False)).best == 20


@pytest.mark.parametrize(
  ('name', 'step'),
  [('best', 10), ('latest', 20), ('3', 3), (3, 3), (20, 20), (np.int64(3), 3)],
)
def test_words_and_numbers_name_a_step(folder, task, name, step):
  assert saved(folder, task).named(name) == step


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('last', "checkpoint 'last': expected best, latest or a step"),
    ('', "checkpoint '': expected best"),
    ('3.0', "checkpoint '3.0': expected best"),
    (3.5, 'checkpoint 3.5: expected best'),
    (None, 'checkpoint None: expected best'),
    (-3, 'checkpoint -3: expected best'),
    (4, r'no checkpoint of step 4; there are: 3, 10, 20'),
    ('99', r'no checkpoint of step 99; there are: 3, 10, 20'),
  ],
)
def test_words_that_name_none(folder, task, name, message):
  with pytest.raises(InputError, match=message):
    saved(folder, task).named(name)


@pytest.mark.parametrize('name', ['best', 'latest'])
def test_a_run_without_checkpoints(tmp_path, task, name):
  with pytest.raises(InputError, match='no checkpoint in the workdir; train'):
    saved(tmp_path / 'no', task).named(name)


def test_states_and_layers_are_read(folder, task):
  with family.on(1):
    abstract = abstract_state(task)
    want = jax.device_get(new_state(task, jax.random.key(10)))
    found = saved(folder, task).restore_for_evaluation(10, abstract)
    layers = saved(folder, task).restore_layers(10, abstract)
  assert found.opt_state is None
  assert found.table_state is None
  jax.tree.map(np.testing.assert_array_equal, found.tables, want.tables)
  jax.tree.map(np.testing.assert_array_equal, found.params, want.params)
  jax.tree.map(np.testing.assert_array_equal, layers, want.layers)


def test_a_folder_that_is_no_checkpoint_is_passed_over(
  folder, task, tmp_path, capsys
):
  copy = shutil.copytree(folder, tmp_path / 'checkpoints')
  shutil.rmtree(copy / '20' / 'state')
  (copy / '007').mkdir()
  found = saved(copy, task)
  assert found.steps == [3, 10]
  assert found.latest == 10
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 1
  assert '20: not a checkpoint' in said[0]
