"""Strict settings for every test: 8 fake devices, no silent promotion."""

import os
import pathlib
import signal

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)

import hypothesis
import jax
import pytest

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')

hypothesis.settings.register_profile('any', deadline=None, max_examples=50)
hypothesis.settings.load_profile('any')

# Under nohup, or behind an `&`, processes that tests start would not hear them.
for _number in (signal.SIGHUP, signal.SIGINT):
  if signal.getsignal(_number) == signal.SIG_IGN:
    signal.signal(_number, signal.SIG_DFL)

ROOT = pathlib.Path(__file__).resolve().parents[1]


def _folder(variable: str, default: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(os.environ.get(variable, default))


@pytest.fixture(scope='session')
def real_data() -> pathlib.Path:
  """Folder of real data sets, which can't be in the repository."""
  folder = _folder('DLRM_JAX_TEST_DATA', ROOT.parent / 'shared' / 'data')
  if not folder.is_dir():
    pytest.skip(f'no real data: {folder} is absent; set DLRM_JAX_TEST_DATA')
  return folder
