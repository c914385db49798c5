"""What importing a part of the package brings along."""

import subprocess
import sys

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


def test_the_converter_imports_pytorch_only_where_a_file_is_read():
  names = imported_with('dlrm_jax.convert.importing')
  names |= imported_with('dlrm_jax.convert.exporting')
  assert 'torch' not in names
