"""`dlrm_jax.prepare`, `train`, `evaluate` and `load`: functions of a notebook.

They are also the modules of the commands of the same names.
"""

import importlib
import subprocess
import sys
import types

import numpy as np
import pytest

import dlrm_jax
from dlrm_jax.callable_module import words
from dlrm_jax.errors import InputError
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
  found = dlrm_jax.evaluate(tmp_path / 'run', split='validation')
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
    'dlrm_jax.prepare.known_ids', 'dlrm_jax.train', 'dlrm_jax.evaluate'
  ):  # fmt: skip
    importlib.import_module(name)
  for name in ('prepare', 'train', 'evaluate'):
    module = getattr(dlrm_jax, name)
    assert isinstance(module, types.ModuleType)
    assert module is sys.modules[f'dlrm_jax.{name}']
    assert callable(module)
    assert module.__doc__
  assert callable(dlrm_jax.load)
  from dlrm_jax.prepare import known_ids

  assert known_ids.__name__ == 'dlrm_jax.prepare.known_ids'


def test_an_unknown_name_is_no_attribute():
  with pytest.raises(AttributeError, match="'dlrm_jax' has no attribute 'fit'"):
    _ = dlrm_jax.fit


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda d: dlrm_jax.prepare('csv', d / 'set'), 'csv'),
    (
      lambda d: dlrm_jax.prepare('criteo', d / 'set', input=[d / 'no.txt']),
      'no.txt: no such file',
    ),
    (
      lambda d: dlrm_jax.prepare('criteo', d / 'set', inputs=['x']),
      '--input',
    ),
    (lambda d: dlrm_jax.train('configs/no.py', d / 'run'), 'configs/no.py'),
    (lambda d: dlrm_jax.evaluate(d), 'not the workdir of a run'),
    (lambda d: dlrm_jax.evaluate(d, splits='x'), '--split'),
    (lambda d: dlrm_jax.load(d), 'neither a workdir'),
    (lambda d: dlrm_jax.load(d / 'no'), 'no such folder'),
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


@pytest.mark.parametrize(
  ('options', 'want'),
  [
    ({}, []),
    ({'a': None, 'b': False, 'c': True}, ['--c']),
    ({'input': ['x', 'y']}, ['--input', 'x', 'y']),
    ({'input': ('x',)}, ['--input', 'x']),
    ({'memory': '1GB', 'seed': 0}, ['--memory=1GB', '--seed=0']),
  ],
)
def test_options_become_words_of_a_command(options, want):
  assert words(options) == want


def test_importing_the_package_imports_nothing_else():
  code = 'import sys, dlrm_jax; print(*sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  heavy = {'jax', 'numpy', 'polars', 'flax', 'ml_collections', 'absl'}
  assert not heavy & set(done.stdout.split())
