"""What importing a part of the package brings along."""

import importlib.util
import subprocess
import sys

import pytest

TRAINING = (
  'array_record', 'grain', 'matplotlib', 'orbax', 'polars', 'scipy',
  'tensorboardX', 'tensorflow_datasets', 'tqdm',
)  # fmt: skip


def imported_with(module):
  """Names of all modules that a process has after one import."""
  code = f'import sys, {module}; print(*sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  return set(done.stdout.split())


def test_a_network_is_built_without_what_only_training_needs():
  names = imported_with('dlrm_jax.build.network')
  assert not names & set(TRAINING)
  rooms = {n.split('.')[1] for n in names if n.startswith('dlrm_jax.')}
  assert not rooms & {'training', 'run', 'prepare', 'checkpoint', 'report'}


@pytest.mark.skipif(
  importlib.util.find_spec('torch') is None, reason='PyTorch is not installed'
)
def test_training_imports_no_pytorch_that_is_installed():
  assert 'torch' not in imported_with('dlrm_jax.run.loop')
  both = imported_with('torch, dlrm_jax.run.loop')
  assert 'torch.nn' in both


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  """A run and its export."""
  from tests import scored

  folder = tmp_path_factory.mktemp('imports')
  run = scored.of_log(folder, scored.RAW)
  return run.folder, scored.exported(run, folder / 'export')


_LOADERS = {
  'array_record', 'grain', 'matplotlib', 'orbax', 'tensorboardX',
  'tensorflow_datasets',
}  # fmt: skip
_SCORE = """
import sys
import numpy as np
import dlrm_jax
model = dlrm_jax.load(sys.argv[1])
sizes = [column.hotness for column in model.card.schema.sparse]
model.score(np.zeros((2, 2)), np.zeros((2, sum(sizes)), int))
"""
_PREDICT = """
import sys
import dlrm_jax
model = dlrm_jax.load(sys.argv[1])
model.predict({
  'price': [1.0], 'age': [2.0], 'user': [3], 'site': ['ff'], 'word': ['x'],
  'city': ['city 1'], 'tags': [['tag1']],
})
"""


def imported_by(code, folder):
  code = f'{code}\nprint(*sys.modules)'
  command = [sys.executable, '-c', code, folder]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  return {name.split('.')[0] for name in done.stdout.split()}


def test_an_export_scores_without_what_trains(models):
  names = imported_by(_SCORE, models[1])
  others = {'flax', 'optax', 'polars', 'tensorstore', 'tqdm'}
  assert not names & (_LOADERS | others)


@pytest.mark.parametrize('number', [0, 1])
def test_raw_rows_are_scored_without_a_loader(models, number):
  assert not imported_by(_PREDICT, models[number]) & _LOADERS


def test_the_converter_imports_pytorch_only_where_a_file_is_read():
  names = imported_with('dlrm_jax.convert.importing')
  names |= imported_with('dlrm_jax.convert.exporting')
  assert 'torch' not in names
