"""`dlrm_jax.prepare`, `train`, `evaluate` and `load`: functions of a notebook.

They are also the modules of the commands of the same names.
"""

import importlib
import inspect
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
import types

import jax
import numpy as np
import pytest

import dlrm_jax
from dlrm_jax import heap
from dlrm_jax.errors import InputError
from dlrm_jax.evaluate import main as evaluate_command
from dlrm_jax.run import loop, output
from dlrm_jax.train import main as train_command
from tests import scored, small


@pytest.mark.slow
def test_from_a_log_to_predictions(tmp_path, capsys):
  rows = scored.rows_of(0)
  log = tmp_path / 'log.csv'
  log.write_text(scored.csv_of(rows))
  config = scored.config_of(tmp_path / 'set')
  with config.data.unlocked():
    config.data.raw.update(scored.RAW)
  file = tmp_path / 'my_log.py'
  file.write_text(
    'from dlrm_jax.configs import default\n'
    'def get_config():\n'
    '  config = default.get_config()\n'
    f'  config.data.raw = {scored.RAW!r}\n'
    '  return config\n'
  )
  made = dlrm_jax.prepare(
    'raw',
    tmp_path / 'set',
    input=[log],
    config=file,
    splits=scored.SPLITS,
    memory='1GB',
  )
  assert made is None
  assert '400 rows' in capsys.readouterr().out
  config.train.steps = 3
  config.train.batch_size = 32
  config.train.eval_every = config.train.checkpoint_every = 3
  results = dlrm_jax.train(config, tmp_path / 'run')
  assert results['step'] == 3
  file = tmp_path / 'found.json'
  found = dlrm_jax.evaluate(tmp_path / 'run', split='validation', json=file)
  assert json.loads(file.read_text()) == json.loads(json.dumps(found))
  again = dlrm_jax.evaluate(tmp_path / 'run', data=[log], batch_size=64)
  assert 0 <= found['metrics']['auc'] <= 1
  assert again['metrics']['examples'] == 400
  model = dlrm_jax.load(tmp_path / 'run')
  assert model.card.step == 3
  columns = scored.columns_of(rows, model.intake.schema)
  np.testing.assert_array_equal(model.predict(columns), model.predict(log))
  assert dlrm_jax.train(config, tmp_path / 'run') == results


def test_they_stay_callable_beside_their_modules():
  """Importing a module sets the name in the package, too."""
  for name in (
    'dlrm_jax.prepare.known_ids',
    'dlrm_jax.train',
    'dlrm_jax.evaluate',
    'dlrm_jax.plan.advice',
  ):
    importlib.import_module(name)
  for name in ('prepare', 'train', 'evaluate', 'plan'):
    module = getattr(dlrm_jax, name)
    assert isinstance(module, types.ModuleType)
    assert module is sys.modules[f'dlrm_jax.{name}']
    assert callable(module)
    assert module.__doc__
  first = {'prepare': 'kind', 'train': 'config', 'evaluate': 'workdir'}
  first['plan'] = 'config'
  for name, argument in first.items():
    known = inspect.signature(getattr(dlrm_jax, name)).parameters
    assert next(iter(known)) == argument
  assert callable(dlrm_jax.load)
  from dlrm_jax.prepare import known_ids

  assert known_ids.__name__ == 'dlrm_jax.prepare.known_ids'


def test_an_unknown_name_is_no_attribute():
  with pytest.raises(AttributeError, match="'dlrm_jax' has no attribute 'fit'"):
    _ = dlrm_jax.fit


def prepare(folder, **options):
  dlrm_jax.prepare('criteo', **{'output': folder / 'set', **options})


def unused_feature():
  """A config with a field of a feature that has no effect."""
  config = small.get_config()
  config.tables.features = {'C1': {'encoding': 'plain', 'hash_rows': 7}}
  return config


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda d: dlrm_jax.prepare('csv', d / 'set'), "kind is 'csv'; expected"),
    (lambda d: dlrm_jax.prepare('--help', d), "kind is '--help'; expected"),
    (lambda d: dlrm_jax.prepare(None, d), 'kind is None; expected criteo,'),
    (lambda d: prepare(d, input=[d / 'no.txt']), 'no.txt: no such file'),
    (lambda d: prepare(d), 'required: --input'),
    (lambda d: prepare(d, inputs=['x']), '--inputs; did you mean --input?'),
    (lambda d: prepare(d, help=True), 'there is no option --help'),
    (lambda d: prepare(d, input=[]), '--input is []; expected'),
    (lambda d: prepare(d, input=['a', 3j]), "--input is ['a', 3j]; expected"),
    (lambda d: prepare(d, input=['--help']), '--help: no such file'),
    (lambda d: prepare(d, input='x', output=3j), '--output is 3j; expected'),
    (lambda d: prepare(d, input='x', memory=['1GB']), "--memory is ['1GB'];"),
    (lambda d: prepare(d, input='x', splits='a\nb'), '--splits is'),
    (lambda d: prepare(d, input='x', splits=False), '--splits is False;'),
    (lambda d: prepare(d, input='x', seed='one'), '--seed=one: expected'),
    (lambda d: prepare(d, input='x', seed=True), '--seed is True; expected'),
    (lambda d: prepare(d, input='x', keep_order='no'), "--keep_order is 'no';"),
    (lambda d: prepare(d, input='x', on_bad_row='go'), '--on_bad_row'),
    (
      lambda d: dlrm_jax.prepare(
        'raw', d, input='x', config=small.get_config()
      ),
      '--config is an object of type ConfigDict; expected',
    ),
    (lambda d: dlrm_jax.train('configs/no.py', d / 'run'), 'configs/no.py'),
    (lambda d: dlrm_jax.train(d / 'no.py', d / 'run'), 'no.py: no such file'),
    (lambda d: dlrm_jax.train({'data': {}}, d), "config is {'data': {}}; exp"),
    (lambda d: dlrm_jax.train(None, d), 'config is None; expected'),
    (lambda d: dlrm_jax.train('', d), "config is ''; expected"),
    (
      lambda d: dlrm_jax.train(small.get_config(), d, live='yes'),
      "live is 'yes'; expected True or False",
    ),
    (
      lambda d: dlrm_jax.train(small.get_config(), None),
      'workdir is None; exp',
    ),
    (
      lambda d: dlrm_jax.train(unused_feature(), d),
      'config.tables.features.C1',
    ),
    (lambda d: dlrm_jax.evaluate(d), 'not the workdir of a run'),
    (lambda d: dlrm_jax.evaluate(None), 'required: --workdir'),
    (lambda d: dlrm_jax.evaluate(''), '--workdir=DIR must be given'),
    (lambda d: dlrm_jax.evaluate(d, splits='x'), 'did you mean --split?'),
    (lambda d: dlrm_jax.evaluate(d, h=True), 'there is no option --h'),
    (lambda d: dlrm_jax.evaluate(d, data=None, batch_size='x'), '--batch_size'),
    (lambda d: dlrm_jax.evaluate(d, json=d / 'no/f.json'), '--json='),
    (lambda d: dlrm_jax.evaluate(d, coordinator='a:1'), "coordinator='a:1'"),
    (lambda d: dlrm_jax.evaluate(d, processes=2), 'processes=2: '),
    (lambda d: dlrm_jax.evaluate(d, process=0), 'process=0: '),
    (lambda d: dlrm_jax.evaluate(d, distributed=True), 'distributed=True: '),
    (lambda d: dlrm_jax.evaluate(d, wait=3), 'wait=3: '),
    (lambda d: dlrm_jax.load(d), 'neither a workdir'),
    (lambda d: dlrm_jax.load(d / 'no'), 'no such folder'),
    (lambda d: dlrm_jax.load(None), 'folder is None; expected'),
    (
      lambda d: dlrm_jax.load(small.get_config()),
      'an object of type ConfigDict',
    ),
  ],
)
def test_mistakes_are_errors_of_one_line(tmp_path, call, message):
  with pytest.raises(InputError) as caught:
    call(tmp_path)
  assert message in str(caught.value)
  assert '\n' not in str(caught.value)


def test_wrong_fields_of_a_config_are_named(tmp_path):
  config = small.get_config()
  with config.unlocked():
    config.tables.encodng = 'hashed'
  with pytest.raises(InputError, match=r'config.tables.encodng.*encoding'):
    dlrm_jax.train(config, tmp_path / 'run')
  config = small.get_config()
  config.model.name = 'deep_fm'
  with pytest.raises(InputError, match=r"config.model.name .*'deep_fm'"):
    dlrm_jax.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_importing_the_package_imports_nothing_else():
  code = 'import sys, dlrm_jax; print(*sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  heavy = {'jax', 'numpy', 'polars', 'flax', 'ml_collections', 'absl'}
  assert not heavy & set(done.stdout.split())


SCRIPT = """
print('it runs')
import os, sys
import dlrm_jax
from dlrm_jax import machine
from dlrm_jax.prepare import pipeline, units
from dlrm_jax.prepare.readers import lines

machine.cores = lambda: 2
pipeline.FRAME_ROWS = 1
lines.PIECE_BYTES = 4000
units.in_process = None
before = dict(os.environ), sys.modules['__main__']
dlrm_jax.prepare('criteo', 'set', input='log.txt', memory='2GB')
assert before == (dict(os.environ), sys.modules['__main__'])
"""


@pytest.mark.parametrize(
  'how', ['a file', pytest.param('standard input', marks=pytest.mark.slow)]
)
def test_a_script_without_a_main_part_prepares_with_workers(tmp_path, how):
  """Several pieces and workers, none of which runs the script again."""
  row = '\t'.join(['1', *['5'] * 13, *['0a1b2c3d'] * 26]) + '\n'
  (tmp_path / 'log.txt').write_text(row * 50)
  (tmp_path / 'script.py').write_text(SCRIPT)
  done = subprocess.run(
    [sys.executable, 'script.py' if how == 'a file' else '-'],
    input=None if how == 'a file' else SCRIPT,
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.count('it runs') == 1
  assert '2 workers' in done.stdout
  assert '50 rows in' in done.stdout


def test_its_names_are_shown_and_nothing_that_it_imports():
  names = dir(dlrm_jax)
  assert {'evaluate', 'load', 'plan', 'prepare', 'train'} <= set(names)
  assert {'__doc__', '__name__', '__all__', 'errors'} <= set(names)
  assert not {'Any', 'TYPE_CHECKING', 'import_module', 'importlib'} & set(names)
  assert names == sorted(names)
  found = {}
  exec('from dlrm_jax import *', found)
  assert {'evaluate', 'load', 'plan', 'prepare', 'train'} == found.keys() - {
    '__builtins__'
  }


def test_malloc_of_the_callers_process_is_not_set(tmp_path, monkeypatch):
  """Only commands, whose process is theirs, keep freed memory."""
  monkeypatch.chdir(tmp_path)
  calls = []
  monkeypatch.setattr(heap, 'keep_freed_memory', lambda: calls.append(0))
  with pytest.raises(InputError, match='dir is empty'):
    dlrm_jax.train('criteo_kaggle', tmp_path / 'run')
  with pytest.raises(InputError):
    dlrm_jax.evaluate(tmp_path)
  assert not calls
  words = ['--config=criteo_kaggle', f'--workdir={tmp_path / "run"}']
  assert train_command(words) == 1
  assert len(calls) == 1
  assert evaluate_command([f'--workdir={tmp_path}']) == 1
  assert len(calls) == 2


@pytest.mark.parametrize('kind', [str, pathlib.Path])
def test_a_config_is_also_the_name_of_a_file(tmp_path, kind):
  file = tmp_path / 'mine.py'
  file.write_text('def get_config():\n  return 3\n')
  with pytest.raises(
    InputError, match=r'mine\.py: get_config\(\) returns a int'
  ):
    dlrm_jax.train(kind(file), tmp_path / 'run')


def test_evaluate_writes_the_json_that_it_returns(
  tmp_path, monkeypatch, capsys
):
  def scored(arguments):
    output.print_lines(['a table'], arguments.json)
    return {'split': arguments.split, 'metrics': {'auc': math.nan}}

  module = sys.modules['dlrm_jax.evaluate']
  monkeypatch.setattr(module, '_evaluate', scored)
  file = tmp_path / 'found.json'
  found = dlrm_jax.evaluate('runs/a', json=file, split='train')
  assert file.read_text() == '{"split": "train", "metrics": {"auc": null}}\n'
  assert found['split'] == 'train'
  assert capsys.readouterr().out == f'a table\n{file.read_text()}'
  dlrm_jax.evaluate('runs/a', json=True, split='train')
  assert capsys.readouterr().out == file.read_text()
  dlrm_jax.evaluate('runs/a', split='train')
  assert capsys.readouterr().out == 'a table\n'


def interrupting(function, times, call=0):
  """A function that sends SIGINT so many times at one of its calls, before."""
  left = call

  def wrapped(*args, **kwargs):
    nonlocal left
    if left == 0:
      for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)
    left -= 1
    return function(*args, **kwargs)

  return wrapped


@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_an_interrupt_before_the_first_step_is_raised(tmp_path, monkeypatch):
  handler = signal.getsignal(signal.SIGINT)
  with monkeypatch.context() as patch:
    patch.setattr(loop, '_state_at', interrupting(loop._state_at, 1))
    with pytest.raises(KeyboardInterrupt):
      dlrm_jax.train(small.get_config(), tmp_path / 'run')
  assert signal.getsignal(signal.SIGINT) == handler


def steps(count):
  """A config of so many steps."""
  config = small.get_config()
  config.optimizer.name = 'adagrad'
  config.train.steps = config.train.eval_every = count
  config.train.checkpoint_every = count
  return config


@pytest.mark.slow
def test_interrupts_are_raised_and_the_same_call_goes_on(
  tmp_path, monkeypatch, capsys
):
  config = steps(8)
  places = (
    (loop.Meter, 'add', 1, 2, ''),  # while steps are made: saved at step 3
    (loop.Meter, 'add', 2, 1, ''),  # twice: ended at once
    (loop, 'finish', 1, 0, 'checkpoint of step 3'),  # after the last step
  )
  for place, name, times, call, said in places:
    with monkeypatch.context() as patch:
      wrapped = interrupting(getattr(place, name), times, call)
      patch.setattr(place, name, wrapped)
      with pytest.raises(KeyboardInterrupt):
        dlrm_jax.train(config, tmp_path / 'run')
    assert said in capsys.readouterr().out
  results = dlrm_jax.train(config, tmp_path / 'run')
  assert results['step'] == 8
  assert 'checkpoint of step 8' in capsys.readouterr().out


@pytest.mark.slow
def test_it_trains_in_a_thread(tmp_path):
  found = []
  thread = threading.Thread(
    target=lambda: found.append(dlrm_jax.train(steps(3), tmp_path / 'run'))
  )
  thread.start()
  thread.join()
  assert found[0]['step'] == 3
