"""Which runs go on in a workdir, with which changes, and which do not."""

import json
import pathlib
import runpy
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dlrm_jax import sharding
from dlrm_jax.build import trained
from dlrm_jax.build.data import identity, open_data
from dlrm_jax.build.run import build_run
from dlrm_jax.cluster.signals import Signals
from dlrm_jax.config.kinds import (
  KINDS,
  FieldKind,
  changes,
  completed,
  field_kind,
  flatten,
  kind_entry,
)
from dlrm_jax.config.unused import with_effect
from dlrm_jax.configs import criteo_kaggle, default
from dlrm_jax.errors import InputError
from dlrm_jax.run import loop, workdir
from dlrm_jax.run.history import read_history
from tests import small
from tests.archives import unpack

DEFAULTS = default.get_config().to_dict()


def settings(**fields):
  """The small config on one device; fields are dotted, `__` for the dot."""
  config = small.get_config()
  config.tables.shards = 1
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.name = 'adagrad'
    optimizer.decay_steps = 0
  config.train.steps = 6
  config.train.eval_every = 2
  config.train.checkpoint_every = 2
  config.train.fresh_tables = False
  config.data.synthetic.train = 2048
  config.data.synthetic.validation = 512
  config.data.synthetic.test = 512
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in fields.items()}
  )
  return config


def start(folder, train=True, **fields):
  """What train.py does; or only whether it would go on."""
  config = settings(**fields)
  data = open_data(config)
  run = build_run(config, data, folder)
  claim = workdir.Claim(run.config, identity(data), run.steps, DEFAULTS)
  with (
    sharding.use(loop.choose_mesh(run)),
    workdir.claimed(folder, claim),
  ):
    if train:
      with Signals() as signals:
        loop.train(run, signals)


def state(folder, step):
  with ocp.StandardCheckpointer() as checkpointer:
    path = folder.absolute() / 'checkpoints' / str(step) / 'state'
    return checkpointer.restore(path)


def assert_same_state(a, b, step):
  jax.tree.map(np.testing.assert_array_equal, state(a, step), state(b, step))


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  folder = tmp_path_factory.mktemp('workdir') / 'six'
  start(folder)
  return folder


@pytest.fixture
def six(done, tmp_path):
  return shutil.copytree(done, tmp_path / 'six')


def test_every_field_of_the_config_has_a_kind_and_every_kind_a_field():
  fields = dict(flatten(DEFAULTS))
  assert not [field for field in fields if kind_entry(field) is None]
  kept = [
    *fields,
    *('data.raw', 'tables.features'),
    *(f'tables.features.*.{x}' for x in ('placement', 'spread', 'columns')),
  ]
  assert not [
    entry
    for entry in KINDS
    if not any(f'{field}.'.startswith(f'{entry}.') for field in kept)
  ]


@pytest.mark.parametrize('name', ['C1', 'site.id', 'a.b.c'])
def test_a_place_of_a_feature_is_one_whatever_its_name(name):
  assert field_kind(f'tables.features.{name}.placement') is FieldKind.PLACE
  assert field_kind(f'tables.features.{name}.encoding') is FieldKind.IDENTITY


def test_a_field_that_is_nowhere_is_part_of_the_identity():
  assert field_kind('train.brand_new') is FieldKind.IDENTITY


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('model__dim', 8),
    ('seed', 3),
    ('data__lanes', 4),
    ('data__synthetic__seed', 2),
    ('table_optimizer__learning_rate', 0.3),
    ('train__batch_size', 128),
    ('tables__pooling', 'mean'),
    ('optimizer__decay_steps', 3),
  ],
)
def test_another_run_is_refused_by_field_and_changes_nothing(six, field, value):
  before = (six / 'config.json').read_text()
  with pytest.raises(
    InputError, match=f'{field.replace("__", ".")} was .*, is'
  ):
    start(six, train=False, **{field: value})
  assert (six / 'config.json').read_text() == before
  assert (six / 'results.json').exists()


NO_EFFECT = {
  'tables.rank': {'tables__rank': 4},
  'tables.compression': {'tables__compression': 2.0},
  'tables.features.C1.compression': {
    'tables__features': {'C1': {'encoding': 'plain', 'compression': 8.0}}
  },
}


@pytest.mark.parametrize('field', NO_EFFECT)
def test_a_field_without_effect_is_no_other_run(tmp_path, field, capsys):
  fields = NO_EFFECT[field]
  without = {}
  if 'tables__features' in fields:
    without = {'tables__features': {'C1': {'encoding': 'plain'}}}
  folder = tmp_path / 'run'
  for given in (fields, without, fields):
    start(folder, train=False, **given)
    config, _ = workdir.read_settings(folder, DEFAULTS)
    assert (
      dict(flatten(config)).get(field) != dict(flatten(DEFAULTS)).get(field)
    ) == (given is fields)
  assert capsys.readouterr().out == ''


def test_a_field_that_has_an_effect_now_is_another_run(tmp_path):
  start(tmp_path / 'run', train=False, tables__rank=4)
  with pytest.raises(InputError, match=r'tables\.encoding was .plain.'):
    start(
      tmp_path / 'run',
      train=False,
      tables__rank=8,
      tables__encoding='tensor_train',
    )


def test_fields_of_synthetic_data_beside_a_set_are_no_other_run():
  then = criteo_kaggle.get_config().to_dict()
  now = criteo_kaggle.get_config()
  now.data.synthetic.train = 5
  now.data.synthetic.strength.dense = 0.25
  now.seed = 9
  found = changes(then, now.to_dict())
  assert len(found) == 3
  left = with_effect(found, then, now.to_dict(), DEFAULTS)
  assert [change.field for change in left] == ['seed']


FREE = {
  'train__log_every': 3,
  'train__keep': 5,
  'train__micro_batch': 64,
  'train__eval_batch_size': 256,
  'train__eval_every': 3,
  'train__checkpoint_every': 5,
  'data__out_of_range': 'unknown',
}


def test_what_changes_no_result_is_taken_as_given(six, capsys):
  start(six, train=False, **FREE)
  assert capsys.readouterr().out == ''
  config, _ = workdir.read_settings(six, DEFAULTS)
  for field, value in FREE.items():
    assert dict(flatten(config))[field.replace('__', '.')] == value
  assert (six / 'results.json').exists()


def test_evaluations_that_patience_counts_change_aloud(six, capsys):
  start(six, train=False, train__eval_every=3, train__patience=5)
  assert 'train.patience=5 counts evaluations' in capsys.readouterr().out


def test_evaluations_that_lower_the_rates_do_not_change(tmp_path):
  plateau = {'train__plateau__patience': 1}
  start(tmp_path, train=False, **plateau)
  with pytest.raises(InputError, match='eval_every was 2, is 3'):
    start(tmp_path, train=False, train__eval_every=3, **plateau)


def test_where_tables_live_may_change_and_is_said(six, capsys):
  start(six, train=False, tables__shards=2, tables__placement='row_wise')
  said = capsys.readouterr().out
  assert 'tables live elsewhere from now on' in said
  assert 'tables.shards was 1, is 2' in said


@pytest.mark.slow
def test_trained_longer_it_is_the_run_that_was_to_be_so_long(
  six, tmp_path, capsys
):
  start(six, train__steps=10)
  said = capsys.readouterr().out
  assert 'trains to step 10 from now on: train.steps was 6, is 10' in said
  assert 'resuming from the checkpoint of step 6' in said
  start(tmp_path / 'ten', train__steps=10)
  assert_same_state(six, tmp_path / 'ten', 10)


def test_results_of_a_shorter_run_are_not_those_of_the_longer_one(six):
  start(six, train=False, train__steps=10)
  assert not (six / 'results.json').exists()


def test_a_folder_that_is_no_checkpoint_is_no_trained_step(six):
  (six / 'checkpoints' / '900').mkdir()
  start(six, train=False, train__steps=10)


def test_as_many_steps_in_other_words_are_the_same_run(six):
  start(six, train=False, train__steps=0, train__epochs=0.75)


def test_fewer_steps_than_are_trained_are_refused_and_change_nothing(six):
  before = (six / 'config.json').read_text()
  with pytest.raises(InputError, match=r'has trained 6 steps.* asks for 4'):
    start(six, train=False, train__steps=4)
  assert (six / 'config.json').read_text() == before


@pytest.mark.slow
def test_more_patience_goes_on_after_an_early_stop(tmp_path):
  still = {
    'optimizer__learning_rate': 0.0,
    'table_optimizer__learning_rate': 0.0,
    'train__steps': 100,
  }
  start(tmp_path / 'w', train__patience=1, **still)
  assert read_history(tmp_path / 'w')[-1]['step'] == 4
  start(tmp_path / 'w', train__patience=3, **still)
  start(tmp_path / 'other', train__patience=3, **still)
  scores = [
    [(row['step'], row['validation/auc']) for row in read_history(folder)
     if 'validation/auc' in row]
    for folder in (tmp_path / 'w', tmp_path / 'other')
  ]  # fmt: skip
  assert scores[0] == scores[1]
  assert scores[0][-1][0] == 8
  assert_same_state(tmp_path / 'w', tmp_path / 'other', 8)


def edit(folder, change):
  path = folder / 'config.json'
  config = json.loads(path.read_text())
  change(config)
  path.write_text(json.dumps(config))


def test_a_run_of_before_a_field_goes_on_and_is_evaluated(six):
  def older(config):
    del config['version']
    del config['tables']['shards'], config['train']['micro_batch']
    del config['table_optimizer'], config['tables']['features']

  edit(six, older)
  config, data = workdir.read_settings(six, DEFAULTS)
  assert config['tables']['shards'] == 8
  assert config['table_optimizer']['name'] == 'sgd'
  assert trained.trained(config, data).task
  with pytest.raises(InputError, match=r"table_optimizer.name was 'sgd', is"):
    start(six, train=False)


def test_a_field_that_was_not_there_means_what_was_done_then():
  older = json.loads(json.dumps(DEFAULTS))
  del older['tables']['threshold']
  assert completed(older, DEFAULTS, 'w')['tables']['threshold'] == 0


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda c: c['train'].update(sparkle=1), 'train.sparkle is 1, .* no such'),
    (lambda c: c.update(version=99), 'version is 99'),
    (lambda c: c.update(model=3), 'model is 3'),
    (lambda c: c['model'].update(dim='4'), "config.model.dim is '4'; expected"),
  ],
)
def test_a_config_of_another_version_or_shape_is_refused(six, change, message):
  edit(six, change)
  with pytest.raises(InputError, match=f'config.json: {message}'):
    start(six, train=False)


def test_other_data_is_refused_and_what_was_not_known_is_not_compared(six):
  path = six / 'data.json'
  data = json.loads(path.read_text())
  del data['scale']
  path.write_text(json.dumps(data))
  start(six, train=False)
  other = data | {'fingerprint': 'other', 'dense': ['a column'] * 99}
  path.write_text(json.dumps(other))
  with pytest.raises(InputError, match="fingerprint was 'other', is") as told:
    start(six, train=False)
  assert 'a column' not in str(told.value)


@pytest.fixture
def old(tmp_path):
  """A prepared set, and an unfinished run on it, of an earlier version."""
  archive = pathlib.Path(__file__).parents[1] / 'old/written_by_9396860.tar.gz'
  unpack(archive, tmp_path)
  return tmp_path


def test_a_set_may_be_moved_and_evaluation_finds_it(old, monkeypatch):
  monkeypatch.chdir(old)
  (old / 'set').rename(old / 'moved')
  config = runpy.run_path('config.py')['get_config']()
  config.train.keep = 9
  for directory in (old / 'moved', 'moved'):
    config.data.dir = str(directory)
    data = open_data(config)
    run = build_run(config, data, old / 'unfinished')
    claim = workdir.Claim(run.config, identity(data), run.steps, DEFAULTS)
    with workdir.claimed(run.workdir, claim):
      pass
    remembered, _ = workdir.read_settings(old / 'unfinished', DEFAULTS)
    assert remembered['data']['dir'] == str(directory)
