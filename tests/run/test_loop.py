"""Runs in this process: how they stop, go on, and what they say meanwhile."""

import itertools
import json
import math
import os
import signal
import time

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from dlrm_jax import sharding
from dlrm_jax.build.data import identity, open_data
from dlrm_jax.build.run import build_run
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.cluster.signals import Signals
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError
from dlrm_jax.evaluate import main as evaluate
from dlrm_jax.metrics import binary
from dlrm_jax.prepare.__main__ import main as prepare
from dlrm_jax.run import loop, workdir
from dlrm_jax.run.history import read_history
from tests import small


def config(**train):
  found = small.get_config()
  found.tables.shards = 8
  found.data.synthetic.train = 5_000
  found.data.synthetic.validation = 3_000
  found.data.synthetic.test = 500
  found.data.synthetic.tables = (50, 30)
  found.data.synthetic.hotness = (1, 3)
  found.optimizer.name = 'adagrad'
  found.train.fresh_tables = False
  found.train.eval_batch_size = 256
  found.train.steps = 24
  found.train.eval_every = 12
  for name, value in train.items():
    setattr(found.train, name, value)
  return found


def train(folder, fields):
  """Trains, or goes on; the number of the signal that stopped it, or 0."""
  data = open_data(fields)
  run = build_run(fields, data, folder)
  defaults = default.get_config().to_dict()
  claim = workdir.Claim(run.config, identity(data), run.steps, defaults)
  with (
    Signals() as signals,
    sharding.use(sharding.make_mesh(jax.devices()[:1])),
    workdir.claimed(folder, claim),
  ):
    ENTERED.append(signals)
    return loop.train(run, signals)


def lines(folder):
  """What was logged, without how fast it was."""
  return [
    {k: v for k, v in row.items() if k != 'examples_per_second'}
    for row in read_history(folder)
  ]


def by_step(rows):
  return {(row['step'], *sorted(row)): row for row in rows}


@pytest.fixture(scope='module', autouse=True)
def _compiled_once(tmp_path_factory):
  """Most of the time of these runs goes into the same few programs."""
  settings = {
    'jax_enable_compilation_cache': True,
    'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('compiled')),
    'jax_persistent_cache_min_compile_time_secs': 0,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run that never stopped."""
  folder = tmp_path_factory.mktemp('runs') / 'whole'
  assert train(folder, config()) == 0
  return folder


def results(folder):
  return json.loads((folder / 'results.json').read_text())


class Calls:
  """Calls a function as before, and does something at one of the calls."""

  def __init__(self, function, call, act):
    self.function, self.left, self.act = function, call, act

  def __call__(self, *args, **kwargs):
    if self.left == 0:
      self.act()
    self.left -= 1
    return self.function(*args, **kwargs)


ENTERED: list[Signals] = []
"""The signals of the run that is going on."""


def send(number):
  """Signals this process, and waits until its thread has noted that."""

  def act():
    os.kill(os.getpid(), number)
    while ENTERED[-1].wait() != number:
      time.sleep(0.001)

  return act


@pytest.mark.parametrize(
  'number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
)
def test_while_steps_are_made_a_signal_is_noted(number):
  before = signal.getsignal(number)
  with Signals() as signals:
    ENTERED.append(signals)
    signals.hold()
    assert signals.poll() == 0
    send(number)()
    assert signals.poll() == signals.wait() == number
  assert signal.getsignal(number) == before


def test_a_signal_between_two_lines_saves_and_changes_nothing(
  whole, tmp_path, monkeypatch, capsys
):
  """At step 9, between the lines and checkpoints of the steps around it."""
  folder = tmp_path / 'run'
  with monkeypatch.context() as patch:
    add = Calls(loop.Meter.add, 8, send(signal.SIGTERM))
    patch.setattr(loop.Meter, 'add', lambda *args: add(*args))
    assert train(folder, config()) == signal.SIGTERM
  said = capsys.readouterr().out
  assert 'SIGTERM: saved step 9 of 24; the same command goes on' in said
  assert train(folder, config()) == 0
  got = by_step(lines(folder))
  extra = got.pop((9, 'step', 'unlogged_loss', 'unlogged_steps'))
  assert extra['unlogged_steps'] == 2
  assert got == by_step(lines(whole))
  assert results(folder) == results(whole)


def test_stopped_where_an_epoch_ends_the_next_one_has_fresh_tables(
  tmp_path, monkeypatch
):
  fields = config(fresh_tables=True)
  fields.data.synthetic.train = 10 * fields.train.batch_size
  assert train(tmp_path / 'whole', fields) == 0
  with monkeypatch.context() as patch:
    add = Calls(loop.Meter.add, 9, send(signal.SIGTERM))
    patch.setattr(loop.Meter, 'add', lambda *args: add(*args))
    assert train(tmp_path / 'run', fields) == signal.SIGTERM
  assert (tmp_path / 'run' / 'checkpoints' / '10').is_dir()
  assert train(tmp_path / 'run', fields) == 0
  whole = by_step(lines(tmp_path / 'whole'))
  assert by_step(lines(tmp_path / 'run')) == whole
  assert results(tmp_path / 'run') == results(tmp_path / 'whole')


@pytest.mark.parametrize('step', [12, 24])
def test_a_signal_stops_an_evaluation_which_is_made_up_for(
  whole, tmp_path, monkeypatch, capsys, step
):
  folder = tmp_path / 'run'
  scored = []
  with monkeypatch.context() as patch:
    tally = binary.tally
    third = Calls(tally, 2 if step == 12 else 14, send(signal.SIGTERM))
    patch.setattr(
      binary, 'tally', lambda *a, **k: scored.append(1) or third(*a, **k)
    )
    assert train(folder, config()) == signal.SIGTERM
  assert f'SIGTERM: saved step {step} of 24' in capsys.readouterr().out
  batches = 3_000 // 256 + 1
  assert len(scored) < batches * (step // 12)
  assert not any(
    row['step'] == step and 'validation/auc' in row
    for row in read_history(folder)
  )
  assert train(folder, config()) == 0
  assert by_step(lines(folder)) == by_step(lines(whole))
  assert results(folder) == results(whole)
  run = build_run(config(), open_data(config()), folder)
  found = Saved(folder / 'checkpoints', run.task.collection.layout)
  assert found.best == results(whole)['step']


def test_a_run_that_lost_its_last_steps_logs_the_same_lines(
  whole, tmp_path, monkeypatch
):
  """As killed: what was logged after the checkpoint of step 10 is there."""
  folder = tmp_path / 'run'

  class Killed(Exception):
    pass

  def die():
    raise Killed

  with monkeypatch.context() as patch:
    add = Calls(loop.Meter.add, 10, die)
    patch.setattr(loop.Meter, 'add', lambda *args: add(*args))
    with pytest.raises(Killed):
      train(folder, config())
  assert max(row['step'] for row in lines(folder)) == 10
  assert train(folder, config()) == 0
  assert lines(folder) == lines(whole)


@pytest.mark.slow
def test_a_lengthened_run_stops_early_where_one_that_was_as_long_stops(
  tmp_path,
):
  """Nothing is learned: the second evaluation after the first stops it."""

  def still(steps):
    fields = config(steps=steps, eval_every=4, patience=2)
    fields.optimizer.learning_rate = 0.0
    fields.table_optimizer.learning_rate = 0.0
    return fields

  for folder, lengths in (('long', (24,)), ('longer', (6, 24))):
    for steps in lengths:
      assert train(tmp_path / folder, still(steps)) == 0
  ends = [lines(tmp_path / x)[-1]['step'] for x in ('long', 'longer')]
  assert ends == [12, 12]


CASE = """
from dlrm_jax.configs import default

def get_config():
  config = default.get_config()
  config.data.raw = {
    'format': 'csv', 'label': 'y', 'sparse': ['u', 'i'], 'dense': ['p'],
    'values': 'integer',
  }
  config.model.dim = 4
  config.model.bottom = (8,)
  config.model.top = (8,)
  config.optimizer.name = 'adagrad'
  config.train.batch_size = 8
  config.train.eval_batch_size = 8
  config.train.steps = 24
  config.train.eval_every = 4
  config.train.checkpoint_every = 4
  config.train.log_every = 4
  config.train.patience = 2
  return config
"""


def prepared(
  folder, labels, weights=None, splits='train=.5,validation=.25,test=.25'
):
  """A set, the first half of it for training, and a config for it."""
  case, weights = CASE, weights or [1] * len(labels)
  if set(weights) != {1}:
    case = CASE.replace("'label'", "'weight': 'w', 'label'")
  (folder / 'config.py').write_text(case)
  rows = [
    f'{y},{k % 5},{k % 7},{k / 8},{w}'
    for k, (y, w) in enumerate(zip(labels, weights, strict=True))
  ]
  (folder / 'log.csv').write_text('\n'.join(['y,u,i,p,w', *rows, '']))
  status = prepare(
    [
      'raw', f'--config={folder / "config.py"}',
      f'--splits={splits}',
      f'--input={folder / "log.csv"}', f'--output={folder / "set"}',
    ]
  )  # fmt: skip
  assert status == 0
  names = {}
  exec(case, names)
  fields = names['get_config']()
  fields.data.dir = str(folder / 'set')
  return fields


MIXED = [1, 0, 0, 1, 0, 1, 1] * 4


@pytest.mark.parametrize(
  ('last', 'why'), [(0, 'no clicks'), (1, 'nothing but clicks')]
)
def test_without_an_auc_nothing_stops_early_and_it_is_said_why(
  tmp_path, capsys, last, why
):
  fields = prepared(tmp_path, MIXED + [last] * 28)
  assert train(tmp_path / 'run', fields) == 0
  said = capsys.readouterr().out
  assert said.count(f'validation has {why}: AUC is undefined; it neither') == 1
  assert f'test has {why}: AUC is undefined' in said
  assert 'validation AUC undefined  log-loss 0.' in said
  assert 'nan' not in said
  assert 'checkpoint of step 24, the last one, as validation AUC is und' in said
  assert 'stopped early' not in said
  found = results(tmp_path / 'run')
  assert found['step'] == 24
  assert found['splits']['test']['auc'] is None
  assert found['splits']['test']['log_loss'] > 0
  page = (tmp_path / 'run' / 'report.html').read_text()
  assert f'validation has {why}: AUC is undefined' in page


def test_where_no_example_counts_the_run_goes_on_and_says_so(tmp_path, capsys):
  fields = prepared(tmp_path, MIXED * 2, [1] * 28 + [0] * 28)
  assert train(tmp_path / 'run', fields) == 0
  said = capsys.readouterr().out
  assert 'validation has no example of a weight above 0: AUC is unde' in said
  assert 'validation AUC undefined  log-loss undefined' in said
  assert 'nan' not in said
  found = results(tmp_path / 'run')
  assert found['step'] == 24
  assert found['splits']['validation']['log_loss'] is None


def test_an_evaluation_without_auc_is_no_candidate_for_the_best(
  tmp_path, monkeypatch
):
  """Undefined once, then falling: the best is the first that is defined."""
  aucs = [math.nan, 0.7, 0.6, math.nan, math.nan, 0.5]
  aucs = itertools.chain(aucs, itertools.repeat(0.4))
  summarize = binary.summarize
  with monkeypatch.context() as patch:
    patch.setattr(
      binary, 'summarize', lambda t: summarize(t) | {'auc': next(aucs)}
    )
    fields = prepared(tmp_path, MIXED * 2)
    fields.train.steps = 40
    assert train(tmp_path / 'run', fields) == 0
  assert results(tmp_path / 'run')['step'] == 8
  steps = [r['step'] for r in read_history(tmp_path / 'run') if 'loss' in r]
  assert steps[-1] == 24  # the second evaluation that is defined and no better


def test_a_damaged_validation_shard_is_not_told_as_divergence(tmp_path):
  fields = prepared(tmp_path, MIXED * 2)
  (shard,) = (tmp_path / 'set').glob('*-validation.array_record*')
  content = bytearray(shard.read_bytes())
  content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
  shard.write_bytes(content)
  with pytest.raises(InputError, match=r'split validation.*damaged') as error:
    train(tmp_path / 'run', fields)
  assert 'prepare it again' in str(error.value)
  assert 'learning rate' not in str(error.value)
  assert 'parameters' not in str(error.value)


def test_a_state_that_gives_no_number_is_told_as_divergence(tmp_path):
  fields = prepared(tmp_path, MIXED * 2)
  fields.optimizer.name = 'sgd'
  fields.optimizer.learning_rate = 3e38
  fields.train.eval_every = 1
  with pytest.raises(InputError, match=r'step 1: .*Lower the learning rates'):
    train(tmp_path / 'run', fields)


def test_two_runs_are_compared_on_the_same_rows(whole, tmp_path, capsys):
  other = tmp_path / 'other'
  assert train(other, config(steps=12)) == 0
  capsys.readouterr()
  flags = [f'--workdir={whole}', '--split=validation']
  assert evaluate([*flags, f'--compare={other}']) == 0
  said = capsys.readouterr().out.splitlines()
  found = json.loads(said[-1])
  a, b = results(whole), results(other)
  assert (found['step'], found['compare']['step']) == (a['step'], b['step'])
  for metric, line in (('auc', 'AUC'), ('log_loss', 'log-loss')):
    scores = [x['splits']['validation'][metric] for x in (a, b)]
    apart = found['compare'][metric]
    assert apart['value'] == pytest.approx(scores[0] - scores[1], abs=1e-4)
    alone = a['splits']['validation'][f'{metric}_std_error']
    assert 0 < apart['std_error'] < alone
    (shown,) = (x for x in said if x.startswith(line))
    assert ('beyond' if apart['p'] < 0.05 else 'within') in shown


def test_runs_on_other_rows_are_not_compared(whole, tmp_path, capsys):
  fields = config(steps=1)
  fields.data.synthetic.test = 600
  assert train(tmp_path / 'other', fields) == 0
  flags = [f'--workdir={whole}', f'--compare={tmp_path / "other"}']
  assert evaluate(flags) == 1
  assert '500 examples of one run against 600' in capsys.readouterr().err


def test_without_a_split_validation_the_last_checkpoint_is_used_and_said(
  tmp_path, capsys
):
  fields = prepared(tmp_path, MIXED * 2, splits='train=.5,test=.5')
  fields.train.patience = 0
  assert train(tmp_path / 'run', fields) == 0
  said = capsys.readouterr().out
  assert 'step 24, the last one, as the data has no split validation' in said


@pytest.mark.parametrize(
  'name', ['metrics.jsonl', 'results.json', 'report.html']
)
def test_a_folder_in_the_way_of_an_output_is_found_before_the_work(
  tmp_path, name
):
  (tmp_path / 'run' / name).mkdir(parents=True)
  with pytest.raises(InputError, match=f'--workdir: .*{name} is a folder'):
    train(tmp_path / 'run', config())
  assert not list((tmp_path / 'run' / 'checkpoints').glob('[0-9]*'))
