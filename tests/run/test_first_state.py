"""Runs that start from layers and tables of other runs, by their names."""

import contextlib
import json
import shutil
from unittest import mock

import jax
import numpy as np
import pytest

from dlrm_jax import sharding
from dlrm_jax.build.data import identity, open_data
from dlrm_jax.build.run import build_run
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.cluster.signals import Signals
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError
from dlrm_jax.run import loop, workdir
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
def opened(run, devices=1):
  """The devices, and the workdir with its settings."""
  defaults = default.get_config().to_dict()
  claim = workdir.Claim(run.config, identity(run.data), run.steps, defaults)
  mesh = sharding.make_mesh(jax.devices()[:devices])
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
  with opened(run, devices=2):
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
    'tables: C1.gmf, C2.gmf'
  )
  assert said[1] == (
    '  not taken: mlp_out.bias, mlp_out.kernel, top.dense_0.bias, '
    'top.dense_0.kernel, C1.mlp, C2.mlp: absent there'
  )
  assert said[2].startswith(f'started from {tmp_path}/mlp/checkpoints/{STEP}:')
  assert said[2].endswith('tables: C1.mlp, C2.mlp')


def test_tables_of_other_ids_stay_new_and_this_is_said(tmp_path, capsys):
  other, state = made(tmp_path / 'a', config_of('mlp', data__synthetic__seed=3))
  run, found = started(tmp_path / 'b', config_of('mlp'), other.workdir)
  assert_equal(found.params, jax.device_get(state.params))
  new = new_state(run.task, jax.random.key(run.seed))
  assert_equal(tables(run, found), tables(run, new))
  said = capsys.readouterr().out
  assert 'tables: none' in said
  assert 'not taken: C1.mlp, C2.mlp: ids there are of other data' in said


def test_what_has_another_shape_stays_new(tmp_path, capsys):
  other, _ = made(tmp_path / 'a', config_of('mlp', model__top=(8,)))
  config = config_of('mlp', model__top=(6,))
  run, found = started(tmp_path / 'b', config, other.workdir)
  new = jax.device_get(new_state(run.task, jax.random.key(run.seed)))
  kernel = found.params['model']['mlp_out']['kernel']
  np.testing.assert_array_equal(
    kernel, new.params['model']['mlp_out']['kernel']
  )
  assert capsys.readouterr().out.splitlines()[1] == (
    '  not taken: mlp_out.kernel, top.dense_0.bias, top.dense_0.kernel: of '
    'another shape there'
  )


QUOTIENTS = {'encoding': 'quotient_remainder', 'combine': 'add'}


@pytest.mark.parametrize(
  ('there', 'here', 'name', 'why'),
  [
    (
      {'encoding': 'chinese_remainder', 'combine': 'add', 'buckets': (8, 7)},
      {**QUOTIENTS, 'buckets': (8, 7)},
      'C1.mlp.1',
      'C1 is ChineseRemainder(ids=50, buckets=(8, 7)) with Add() there, '
      'QuotientRemainder(ids=50, buckets=(8, 7)) with Add() here',
    ),
    (
      {**QUOTIENTS, 'buckets': (8, 7)},
      {**QUOTIENTS, 'buckets': (8, 9)},
      'C1.mlp.1',
      'C1 is QuotientRemainder(ids=50, buckets=(8, 7)) with Add() there, '
      'QuotientRemainder(ids=50, buckets=(8, 9)) with Add() here',
    ),
    (
      {**QUOTIENTS, 'buckets': (8, 7)},
      {**QUOTIENTS, 'buckets': (8, 7), 'combine': 'mult'},
      'C1.mlp.1',
      'with Add() there, QuotientRemainder(ids=50, buckets=(8, 7)) with Mult()',
    ),
    (
      {'table': 'C2'},
      {},
      'C2.mlp',
      'C1 is plain there, not in this table here',
    ),
    (
      {},
      {'table': 'C2'},
      'C2.mlp',
      'C1 is not in this table there, plain here',
    ),
  ],
)
def test_tables_whose_ids_have_other_rows_stay_new(
  tmp_path, capsys, there, here, name, why
):
  """Though they have the same sizes."""
  common = {'tables__threshold': 0, 'data__synthetic__tables': (50, 50)}

  def with_fields(fields):
    config = config_of('mlp', **common)
    with config.unlocked():
      config.tables.features.C1 = fields
    return config

  other, _ = made(tmp_path / 'a', with_fields(there))
  run, found = started(tmp_path / 'b', with_fields(here), other.workdir)
  new = new_state(run.task, jax.random.key(run.seed))
  np.testing.assert_array_equal(
    tables(run, found)[name], tables(run, new)[name]
  )
  (line,) = [
    line
    for line in capsys.readouterr().out.splitlines()
    if 'not taken' in line and name in line
  ]
  assert why in line


def test_fields_of_single_features_are_those_of_each_run(tmp_path, capsys):
  """Those of this run say nothing about the other one."""
  common = {'tables__threshold': 0}
  there = config_of('mlp', tables__encoding='chinese_remainder', **common)
  there.tables.buckets, there.tables.combine = (8, 7), 'add'
  other, _ = made(tmp_path / 'a', there)
  here = config_of('mlp', **common)
  with here.unlocked():
    here.tables.features.C1 = {**QUOTIENTS, 'buckets': (8, 7)}
  started(tmp_path / 'b', here, other.workdir)
  assert 'C1.mlp.1, C1.mlp.2: C1 is ChineseRemainder' in capsys.readouterr().out


def test_a_feature_that_the_other_run_does_not_have_is_no_error(
  tmp_path, capsys
):
  other, _ = made(tmp_path / 'a', config_of('mlp'))
  here = config_of('mlp', data__synthetic__tables=(50, 30, 20))
  here.data.synthetic.hotness = (1, 1, 1)
  with here.unlocked():
    here.tables.features.C3 = {'update': 'dense'}
  started(tmp_path / 'b', here, other.workdir)
  assert 'C3.mlp: absent there' in capsys.readouterr().out


def test_one_encoding_that_configs_describe_differently_is_taken(tmp_path):
  config = config_of('mlp', tables__threshold=0, tables__encoding='hashed')
  config.tables.rows = 25
  other, state = made(tmp_path / 'a', config)
  config = config_of('mlp', tables__threshold=30, tables__encoding='hashed')
  config.tables.compression = 2
  found = tables(*started(tmp_path / 'b', config, other.workdir))
  want = tables(other, state)
  np.testing.assert_array_equal(found['C1.mlp'], want['C1.mlp'])


def test_layers_of_an_encoding_go_with_its_table(tmp_path, capsys):
  """Its buckets choose among MLPs, so that these belong to ids, too."""
  path = {'tables__threshold': 0, 'tables__combine': 'path'}
  quotients = config_of('mlp', tables__encoding='quotient_remainder', **path)
  quotients.tables.buckets = (10, 7)
  other, state = made(tmp_path / 'a', quotients)
  run, found = started(tmp_path / 'same', quotients, other.workdir)
  assert_equal(found.params, jax.device_get(state.params))
  remainders = config_of('mlp', tables__encoding='chinese_remainder', **path)
  remainders.tables.buckets = (10, 7)
  run, found = started(tmp_path / 'b', remainders, other.workdir)
  new = jax.device_get(new_state(run.task, jax.random.key(run.seed)))
  layers = [name for name in new.params if name.startswith('C1')]
  assert layers == ['C1.mlp_path_0']
  assert_equal(found.params[layers[0]], new.params[layers[0]])
  assert 'params.C1.mlp_path_0.enter' in capsys.readouterr().out


def test_tables_of_other_kinds_of_values_stay_new(tmp_path, capsys):
  """A text has another row as an integer than as a string."""

  def started_as(name, kinds):
    config, data = config_of('mlp'), open_data(config_of('mlp'))
    config.train.init_from = str(other.workdir)
    run = build_run(config, data, tmp_path / name)
    details = mock.PropertyMock(
      return_value={**data.details, **({'values': kinds} if kinds else {})}
    )
    with opened(run), mock.patch.object(type(data), 'details', details):
      first_state(run)
    return capsys.readouterr().out

  other, _ = made(tmp_path / 'a', config_of('mlp'))
  path = other.workdir / 'data.json'
  kinds = {'C1': 'integer', 'C2': 'string'}
  path.write_text(json.dumps({**json.loads(path.read_text()), 'values': kinds}))
  assert 'not taken' not in started_as('older', None)
  assert 'not taken' not in started_as('same', kinds)
  said = started_as('other', {'C1': 'string', 'C2': 'string'})
  assert said.splitlines()[1] == (
    '  not taken: C1.mlp: C1 is plain, of integer values there, plain, of '
    'string values here'
  )


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
  with pytest.raises(InputError, match=r'init_from=.*: nothing .* are absent'):
    started(tmp_path / 'b', config_of('mlp'), other.workdir)


@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_a_start_that_is_refused_leaves_the_folder_to_others(tmp_path):
  other, _ = made(tmp_path / 'a', config_of('gmf', data__synthetic__seed=3))
  config = config_of('mlp', train__init_from=str(other.workdir))
  run = run_of(config, tmp_path / 'b')
  with (
    opened(run),
    Signals() as signals,
    pytest.raises(InputError, match='nothing'),
  ):
    loop.train(run, signals)
  with opened(run_of(config_of('gmf'), tmp_path / 'b')):
    pass


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


def train(config, folder):
  """Trains to the end of the config; what was printed is for capsys."""
  run = run_of(config, folder)
  with opened(run), Signals() as signals:
    assert loop.train(run, signals) == 0


def test_a_run_that_goes_on_tells_and_reports_where_it_started(
  tmp_path, capsys
):
  """The other run has been removed by then."""
  other, _ = made(tmp_path / 'gmf', config_of('gmf'))
  config = config_of('gmf', train__init_from=str(other.workdir))
  config.optimizer.name = 'adagrad'
  config.train.eval_every = config.train.steps = 3
  train(config, tmp_path / 'run')
  line = f'started from {other.workdir}, step {STEP}'
  assert line not in capsys.readouterr().out
  shutil.rmtree(other.workdir)
  config.train.eval_every = config.train.steps = 5
  train(config, tmp_path / 'run')
  assert line in capsys.readouterr().out.splitlines()
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert results['started_from'] == {str(other.workdir): STEP}
  assert f'{line}.' in (tmp_path / 'run' / 'report.html').read_text()


def test_a_run_stopped_before_its_first_checkpoint_starts_from_the_same(
  tmp_path,
):
  """Though the other run has gone on, and has a better checkpoint."""
  other, state = made(tmp_path / 'gmf', config_of('gmf'))
  started(tmp_path / 'run', config_of('gmf'), other.workdir)
  with opened(other):
    layout = other.task.collection.layout
    checkpoints = Checkpoints(
      other.workdir / 'checkpoints', layout, 2, other.objective
    )
    better = new_state(other.task, jax.random.key(99))
    checkpoints.save(STEP + 1, better, {'auc': 0.8})
    checkpoints.close()
  again = started(tmp_path / 'run', config_of('gmf'), other.workdir)
  assert_equal(tables(*again), tables(other, state))
  new = started(tmp_path / 'new', config_of('gmf'), other.workdir)
  assert_equal(tables(*new), tables(other, better))
