"""Strict settings for every test: 8 fake devices, no silent promotion."""

import collections
import os
import pathlib
import shutil
import signal
import tempfile

# Of this process and of the commands that tests run. Most of the time of small
# programs goes into their compilation.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
  ]
)

import hypothesis
import jax
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# A worker inherits the folder, and commands that tests call would set another.
jax.config.update('jax_compilation_cache_dir', None)
jax.config.update('jax_enable_compilation_cache', False)
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')

# Of commands alone, as JAX has read its variables here.
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['PYTHONPATH'] = str(ROOT)
os.environ['OPENBLAS_NUM_THREADS'] = '1'  # threads that a fork would lose

hypothesis.settings.register_profile('any', deadline=None, max_examples=50)
hypothesis.settings.load_profile('any')

# Under nohup, or behind an `&`, processes that tests start would not hear them.
for _number in (signal.SIGHUP, signal.SIGINT):
  if signal.getsignal(_number) == signal.SIG_IGN:
    signal.signal(_number, signal.SIG_DFL)

_DESELECTED = pytest.StashKey[collections.Counter]()


def pytest_configure(config):
  """Gives all commands of a session, on all its workers, one cache."""
  config.stash[_DESELECTED] = collections.Counter()
  if not hasattr(config, 'workerinput'):
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp()


def pytest_unconfigure(config):
  if not hasattr(config, 'workerinput'):
    folder = os.environ['JAX_COMPILATION_CACHE_DIR']
    shutil.rmtree(folder, ignore_errors=True)


def pytest_deselected(items):
  for item in items:
    item.config.stash[_DESELECTED][item.nodeid.partition('::')[0]] += 1


def pytest_sessionfinish(session):
  """A worker says which tests it left out; each leaves out the same."""
  if hasattr(session.config, 'workeroutput'):
    counts = dict(session.config.stash[_DESELECTED])
    session.config.workeroutput['deselected'] = counts


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
  counts = getattr(node, 'workeroutput', {}).get('deselected', {})
  node.config.stash[_DESELECTED] |= collections.Counter(counts)


def pytest_terminal_summary(terminalreporter, config):
  """Says aloud which tests did not run, and why."""
  write = terminalreporter.write_line
  skipped = terminalreporter.stats.get('skipped', [])
  reasons = collections.Counter(
    report.longrepr[2].removeprefix('Skipped: ') for report in skipped
  )
  write('')
  write(f'{len(skipped)} tests were skipped{":" if skipped else ""}')
  for reason, count in reasons.most_common():
    write(f'{count:5}  {reason}')
  left = config.stash[_DESELECTED]
  if left:
    chosen = config.option.markexpr or config.option.keyword
    write(f'{left.total()} tests were left out by "{chosen}":')
    for file, count in sorted(left.items()):
      write(f'{count:5}  {file}')


def _folder(variable: str, default: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(os.environ.get(variable, default))


@pytest.fixture(scope='session')
def real_data() -> pathlib.Path:
  """Folder of real data sets, which can't be in the repository."""
  folder = _folder('DLRM_JAX_TEST_DATA', ROOT.parent / 'shared' / 'data')
  if not folder.is_dir():
    pytest.skip(f'no real data: {folder} is absent; set DLRM_JAX_TEST_DATA')
  return folder


@pytest.fixture(scope='session')
def plain(tmp_path_factory):
  """A run of the log of `tests.scored`: a column of each kind, one label."""
  from tests import scored

  return scored.of_log(tmp_path_factory.mktemp('plain'), scored.RAW)


@pytest.fixture(scope='session')
def weighted(tmp_path_factory):
  """A run with a bag whose ids have weights."""
  from tests import scored

  return scored.of_log(tmp_path_factory.mktemp('weighted'), scored.WEIGHTED)


@pytest.fixture(scope='session')
def two_labels(tmp_path_factory):
  """A run of two labels."""
  from tests import scored

  folder = tmp_path_factory.mktemp('two')
  return scored.of_log(folder, scored.TWO_LABELS, 'mmoe')


@pytest.fixture(scope='session')
def export(plain, tmp_path_factory):
  """An export of `plain`."""
  from tests import scored

  return scored.exported(plain, tmp_path_factory.mktemp('of_plain') / 'export')
