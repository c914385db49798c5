"""Runs that start from layers and tables of other runs, by their names."""

import contextlib
from unittest import mock

import jax
import numpy as np
import pytest

from dlrm_jax import sharding
from dlrm_jax.build.data import identity, open_data
from dlrm_jax.build.run import build_run
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError
from dlrm_jax.run import workdir
from dlrm_jax.run.first_state import first_state
from dlrm_jax.training.state import new_state
from tests import small

STEP = 7


def config_of(name, **fields):
  """A config of users and items, without dense features."""
  config = small.get_config()
  config.data.synthetic.tables = (50, 30)
  config.data.synthetic.hotness = (1, 1)
  config.data.synthetic.dense = 0
  config.model.name = name
  config.tables.shards = 4
  config.update_from_flattened_dict(
    {field.replace('__', '.'): value for field, value in fields.items()}
  )
  return config


def run_of(config, folder):
  return build_run(config, open_data(config), folder)


@contextlib.contextmanager
def opened(run):
  """The devices, and the workdir with its settings."""
  defaults = default.get_config().to_dict()
  claim = workdir.Claim(run.config, identity(run.data), run.steps, defaults)
  mesh = sharding.make_mesh(jax.devices()[:1])
  with sharding.use(mesh), workdir.claimed(run.workdir, claim):
    yield


def made(folder, config):
  """A run with a checkpoint of its first state: (its run, this state)."""
  run = run_of(config, folder)
  with opened(run):
    state = new_state(run.task, jax.random.key(len(folder.name)))
    layout = run.task.collection.layout
    checkpoints = Checkpoints(folder / 'checkpoints', layout, 2, run.objective)
    checkpoints.save(STEP, state, {'auc': 0.7})
    checkpoints.close()
  return run, state


def started(folder, config, *others):
  """The first state of a run from others."""
  config.train.init_from = ','.join(str(other) for other in others)
  run = run_of(config, folder)
  with sharding.use(sharding.make_mesh(jax.devices()[:2])):
    return run, jax.device_get(first_state(run))


def tables(run, state):
  state = jax.device_get(state)
  return {
    t.name: np.asarray(run.task.collection.read(state.tables, t.name))
    for t in run.task.collection.tables
  }


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_neumf_starts_from_gmf_and_mlp(tmp_path, capsys):
  """Elsewhere placed, on other devices, with another optimizer."""
  gmf, mlp = (
    made(tmp_path / name, config_of(name, tables__placement='row_wise'))
    for name in ('gmf', 'mlp')
  )
  config = config_of('neumf', tables__placement='column_wise')
  config.table_optimizer.name = 'adagrad'
  run, state = started(
    tmp_path / 'neumf', config, gmf[0].workdir, mlp[0].workdir
  )
  assert_equal(tables(run, state), tables(*gmf) | tables(*mlp))
  layers = jax.device_get((gmf[1].params['model'], mlp[1].params['model']))
  assert_equal(state.params['model'], layers[0] | layers[1])
  assert state.step == 0
  said = capsys.readouterr().out.splitlines()
  assert said[0] == (
    f'started from {tmp_path}/gmf/checkpoints/{STEP}: 2 arrays of layers; '
    'tables: C1.gmf, C2.gmf; not found there: mlp_out.bias, mlp_out.kernel, '
    'top.dense_0.bias, top.dense_0.kernel, C1.mlp, C2.mlp'
  )
  assert said[1].startswith(f'started from {tmp_path}/mlp/checkpoints/{STEP}:')
  assert 'tables: C1.mlp, C2.mlp; not found there: gmf_out.bias' in said[1]


def test_tables_of_other_ids_stay_new_and_this_is_said(tmp_path, capsys):
  other, state = made(tmp_path / 'a', config_of('mlp', data__synthetic__seed=3))
  run, found = started(tmp_path / 'b', config_of('mlp'), other.workdir)
  assert_equal(found.params, jax.device_get(state.params))
  new = new_state(run.task, jax.random.key(run.seed))
  assert_equal(tables(run, found), tables(run, new))
  said = capsys.readouterr().out
  assert 'tables: none' in said
  assert 'tables were not taken, as its ids are of other data' in said


def test_what_has_another_shape_stays_new(tmp_path, capsys):
  other, _ = made(tmp_path / 'a', config_of('mlp', model__top=(8,)))
  config = config_of('mlp', model__top=(6,))
  run, found = started(tmp_path / 'b', config, other.workdir)
  new = jax.device_get(new_state(run.task, jax.random.key(run.seed)))
  kernel = found.params['model']['mlp_out']['kernel']
  np.testing.assert_array_equal(
    kernel, new.params['model']['mlp_out']['kernel']
  )
  said = capsys.readouterr().out
  assert 'top.dense_0.kernel' in said.partition('not found there')[2]


def test_running_statistics_come_along(tmp_path):
  config = config_of('mlp', model__norm='batch')
  other, state = made(tmp_path / 'a', config)
  _, found = started(tmp_path / 'b', config, other.workdir)
  assert jax.tree.leaves(found.statistics)
  assert_equal(found.statistics, jax.device_get(state.statistics))


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
  run = run_of(config_of('mlp'), tmp_path / 'a')
  with opened(run):
    pass
  with pytest.raises(InputError, match=r'init_from=.*/a: no checkpoint'):
    started(tmp_path / 'b', config_of('mlp'), tmp_path / 'a')
  with pytest.raises(InputError, match=r'init_from=.*/absent: no checkpoint'):
    started(tmp_path / 'b', config_of('mlp'), tmp_path / 'absent')


def test_a_run_with_nothing_in_common_is_refused(tmp_path):
  other, _ = made(tmp_path / 'a', config_of('gmf', data__synthetic__seed=3))
  with pytest.raises(InputError, match=r'nothing in .* has the name and shape'):
    started(tmp_path / 'b', config_of('mlp'), other.workdir)


def test_the_checkpoint_is_the_best_by_the_objective_of_the_other_run(tmp_path):
  config = config_of('gmf')
  run = run_of(config, tmp_path / 'other')
  with opened(run):
    layout = run.task.collection.layout
    checkpoints = Checkpoints(
      run.workdir / 'checkpoints', layout, 9, run.objective
    )
    for step, auc in ((1, 0.9), (2, 0.6)):
      state = new_state(run.task, jax.random.key(step))
      checkpoints.save(step, state, {'auc': auc})
    checkpoints.close()
    best = tables(run, new_state(run.task, jax.random.key(1)))
  mine = config_of('gmf', train__objective='ne')
  assert_equal(tables(*started(tmp_path / 'new', mine, run.workdir)), best)


def test_rates_that_fall_by_validation_need_one(tmp_path):
  config = config_of('gmf', train__plateau__patience=1)
  data = open_data(config)
  splits = mock.PropertyMock(return_value={'train': 1000})
  with (
    mock.patch.object(type(data), 'splits', splits),
    pytest.raises(InputError, match='no split validation to fall by'),
  ):
    build_run(config, data, tmp_path)
