"""Workdirs of converted files are workdirs: evaluated, loaded, trained on."""

import json
import resource
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlrm_jax
from dlrm_jax.checkpoint.fits import leaves
from dlrm_jax.convert.importing import import_model
from dlrm_jax.embedding.low_precision import BFLOAT16
from dlrm_jax.errors import InputError
from tests import commands, small
from tests.convert import models

torch = pytest.importorskip('torch', reason='PyTorch is not installed')

ADAGRADS = (
  '--config.optimizer.name=adagrad',
  '--config.table_optimizer.name=rowwise_adagrad',
)
SMALL = ('--config=tests/small.py', '--config.train.fresh_tables=false')


def convert(*flags):
  return commands.run(['-m', 'dlrm_jax.convert', *flags]).stdout


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A folder with a trained run, and what became of it on the way."""
  folder = tmp_path_factory.mktemp('runs')
  steps = '--config.train.steps=20'
  run = f'--workdir={folder}/run'
  commands.run(['train.py', *SMALL, *ADAGRADS, steps, run])
  to = convert('--to=fb', run, f'--output={folder}/model.pt')
  again = convert(
    *('--from=fb', f'--input={folder}/model.pt', *SMALL, *ADAGRADS),
    f'--workdir={folder}/again',
  )
  return folder, to, again


def metrics_of(folder):
  done = commands.run(['-m', 'dlrm_jax.evaluate', f'--workdir={folder}'])
  return json.loads(done.stdout.splitlines()[-1])['metrics']


@pytest.mark.slow
def test_the_commands_say_what_was_converted(trained):
  folder, to, again = trained
  assert f'{folder}/model.pt: 12 tensors of {folder}/run/checkpoints/20' in to
  assert 'optimizer of tables: the sum of squares of row-wise Adagrad' in to
  assert 'made for: --arch-embedding-size=50-40-30-30' in to
  assert f'{folder}/again: 4 tables and 8 arrays of layers' in again
  assert 'optimizer of layers: the sums of squares of Adagrad carried' in again


@pytest.mark.slow
def test_a_run_that_went_there_and_back_scores_the_same(trained):
  folder, *_ = trained
  first, second = (metrics_of(folder / x) for x in ('run', 'again'))
  assert first == second


@pytest.mark.slow
def test_accuracy_of_the_checkpoint_is_in_the_file(trained):
  folder, *_ = trained
  held = torch.load(folder / 'model.pt', weights_only=True)
  path = folder / 'run' / 'checkpoints' / '20' / 'metrics' / 'metrics'
  accuracy = json.loads(path.read_text())['accuracy']
  assert held['test_acc'] == pytest.approx(accuracy)
  assert held['opt_state_dict']['state'][0]['step'] == 20


@pytest.mark.slow
def test_the_states_of_both_runs_are_equal(trained):
  folder, *_ = trained
  _, first = models.opened(folder / 'run', 20)
  _, second = models.opened(folder / 'again', 0)
  assert int(second.step) == 0
  there, here = leaves(first), leaves(second)
  assert there.keys() == here.keys()
  counted = [name for name, x in there.items() if not x.ndim]
  assert any('sum_of_squares' in name for name in there)
  for name in there.keys() - {*counted}:
    np.testing.assert_array_equal(there[name], here[name], name)


@pytest.mark.slow
def test_training_goes_on_from_a_file(trained):
  folder, *_ = trained
  steps, run = '--config.train.steps=40', f'--workdir={folder}/again'
  done = commands.run(['train.py', *SMALL, *ADAGRADS, steps, run])
  assert 'resuming from the checkpoint of step 0' in done.stdout
  log = (folder / 'again' / 'metrics.jsonl').read_text().splitlines()
  losses = [x['loss'] for x in map(json.loads, log) if 'loss' in x]
  new = folder / 'new'
  commands.run(['train.py', *SMALL, *ADAGRADS, steps, f'--workdir={new}'])
  fresh = (new / 'metrics.jsonl').read_text().splitlines()
  assert losses[0] < next(
    x['loss'] for x in map(json.loads, fresh) if 'loss' in x
  )


@pytest.mark.slow
def test_another_config_is_refused_as_in_any_workdir(trained):
  folder, *_ = trained
  run = f'--workdir={folder}/again'
  other = '--config.model.dim=8'
  done = commands.run(['train.py', *SMALL, *ADAGRADS, other, run], status=1)
  assert 'model.dim was 4, is 8' in done.stderr


def test_a_model_without_data_is_loaded_and_scores_rows(tmp_path):
  name = 'torchrec_dlrm_state_dict.pt'
  program, golden, fields = models.FILES[name]
  inputs = models.Golden(golden)
  fields = {**fields, 'data.expected.hotness': inputs.hotness}
  models.taken(program, models.GOLDENS / name, fields, tmp_path / 'run')
  model = dlrm_jax.load(tmp_path / 'run')
  scores = model.score(inputs.inputs.dense, inputs.inputs.ids)
  logits = models.logits(tmp_path / 'run', inputs.inputs)
  np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_a_workdir_or_an_output_that_exists_is_kept(tmp_path):
  program, _, fields = models.FILES['fb_checkpoint.pt']
  source = models.GOLDENS / 'fb_checkpoint.pt'
  models.taken(program, source, fields, tmp_path / 'run')
  with pytest.raises(InputError, match='run: is there already'):
    models.taken(program, source, fields, tmp_path / 'run')
  (tmp_path / 'out.pt').write_text('mine')
  with pytest.raises(InputError, match=r'out\.pt: is there already'):
    models.given(program, tmp_path / 'run', tmp_path / 'out.pt')
  assert (tmp_path / 'out.pt').read_text() == 'mine'


def test_a_conversion_that_fails_leaves_nothing(tmp_path, monkeypatch):
  program, _, fields = models.FILES['fb_checkpoint.pt']
  source = models.GOLDENS / 'fb_checkpoint.pt'

  def fail(*arguments):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr('os.posix_fallocate', fail)
    with pytest.raises(InputError, match='cannot be written: No space left'):
      models.taken(program, source, fields, tmp_path / 'run')
  assert not list(tmp_path.iterdir())
  models.taken(program, source, fields, tmp_path / 'run')
  with monkeypatch.context() as patch:
    patch.setattr(torch, 'save', fail)
    with pytest.raises(InputError, match='cannot be written: No space left'):
      models.given(program, tmp_path / 'run', tmp_path / 'out.pt')
  assert [x.name for x in tmp_path.iterdir()] == ['run']


@pytest.mark.parametrize('name', ['out.pt', 'out'])
def test_a_full_disk_is_told_and_leaves_nothing(name, tmp_path):
  """PyTorch's writer does not say why it fails."""
  file = 'torchrec_dlrm_state_dict.pt'
  program, _, fields = models.FILES[file]
  models.taken(program, models.GOLDENS / file, fields, tmp_path / 'run')
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    with pytest.raises(
      InputError, match=f'{name}: cannot be written: is the d'
    ):
      models.given(program, tmp_path / 'run', tmp_path / name)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)
  assert [x.name for x in tmp_path.iterdir()] == ['run']


def test_optimizers_of_other_kinds_begin_anew(tmp_path):
  name = 'fb dot with itself'
  models.made(name, tmp_path / 'source.pt')
  fields = models.fields_of(name) | {
    'optimizer.name': 'adam',
    'table_optimizer.name': 'rowwise_adagrad',
  }
  lines = models.taken('fb', tmp_path / 'source.pt', fields, tmp_path / 'run')
  (layers, tables) = (line for line in lines if line.startswith('optimizer'))
  assert layers == (
    'optimizer of layers: begins anew, as the file has sum, and '
    'config.optimizer.name is adam'
  )
  assert 'begins anew, as the file has sum of other shapes' in tables
  _, state = models.opened(tmp_path / 'run')
  for x in jax.tree.leaves((state.opt_state, state.table_state)):
    assert not np.any(x)


def test_sums_that_do_not_start_at_zero_begin_anew(tmp_path):
  program, _, fields = models.FILES['fb_checkpoint.pt']
  fields = fields | {'table_optimizer.name': 'optax_adagrad'}
  source = models.GOLDENS / 'fb_checkpoint.pt'
  lines = models.taken(program, source, fields, tmp_path / 'run')
  assert any('the file has no state of it' in line for line in lines)
  _, state = models.opened(tmp_path / 'run')
  sums = [x for x in jax.tree.leaves(state.table_state) if x.ndim == 2]
  assert sums
  for x in sums:
    np.testing.assert_array_equal(x, np.float32(0.1))


@pytest.mark.parametrize('storage', ['bfloat16', 'int8'])
def test_tables_and_sums_of_fewer_bits_go_there_and_back(tmp_path, storage):
  name = 'fb dot with itself'
  models.made(name, tmp_path / 'source.pt')
  kept = {'tables.storage': storage, 'tables.state': 'bfloat16'}
  fields = models.fields_of(name) | kept
  models.taken('fb', tmp_path / 'source.pt', fields, tmp_path / 'run')
  models.given('fb', tmp_path / 'run', tmp_path / 'back.pt')
  models.taken('fb', tmp_path / 'back.pt', fields, tmp_path / 'again')
  source, back = (
    torch.load(tmp_path / f'{x}.pt', weights_only=True)
    for x in ('source', 'back')
  )
  for key, value in source['state_dict'].items():
    far = 1 / 64 if key.startswith('emb') else 0
    np.testing.assert_allclose(back['state_dict'][key], value, far, far)
  state = source['opt_state_dict']['state']
  for key, slot in back['opt_state_dict']['state'].items():
    np.testing.assert_allclose(slot['sum'], state[key]['sum'], 2**-8)
  _, first = models.opened(tmp_path / 'run')
  _, second = models.opened(tmp_path / 'again')
  kinds = {x.dtype.name for x in jax.tree.leaves(first.table_state) if x.ndim}
  assert kinds == {'uint16'}
  jax.tree.map(
    np.testing.assert_array_equal, first.table_state, second.table_state
  )


def test_a_first_state_is_rounded_where_the_file_has_none(tmp_path):
  program, _, fields = models.FILES['fb_checkpoint.pt']
  fields = fields | {
    'table_optimizer.name': 'optax_adagrad',
    'tables.state': 'bfloat16',
  }
  source = models.GOLDENS / 'fb_checkpoint.pt'
  models.taken(program, source, fields, tmp_path / 'run')
  _, state = models.opened(tmp_path / 'run')
  for x in jax.tree.leaves(state.table_state):
    if x.ndim:
      found = BFLOAT16.decode(x, x.shape[-1])
      np.testing.assert_array_equal(found, np.float32(jnp.bfloat16(0.1)))


def test_a_config_of_a_synthetic_log_gives_the_columns(tmp_path):
  config = small.get_config()
  config.train.init_from = 'runs/other'
  lines = import_model(
    models.PROGRAMS['fb'],
    models.GOLDENS / 'fb_checkpoint.pt',
    config,
    tmp_path / 'run',
    models.DEFAULTS,
  )
  with pytest.raises(InputError, match=r'init_from=runs/other has no effect'):
    list(lines)
