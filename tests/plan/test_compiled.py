"""The training step compiled for TPUs that are not here."""

import re

import jax
import pytest

from configs import default
from dlrm_jax.build.data import open_schema
from dlrm_jax.build.network import MODELS
from dlrm_jax.build.task import build_task
from dlrm_jax.embedding.load import Workload
from dlrm_jax.errors import InputError
from dlrm_jax.plan import chips, compiled
from dlrm_jax.training.memory import row_state, step_memory
from tests import commands, family
from tests.absent_chips import needs_compiler

HOTNESS = {'one id': (1, 1, 1), 'bags': (1, 4, 1)}


def make_task(hotness, chips, rows=800_000, dim=128, kept=None):
  """Tables of 0.8 GB a chip, if of float32, beside small layers.

  Args:
    hotness: lengths of bags.
    chips: number of chips, and of shards.
    rows: of a table on each chip.
    dim: width.
    kept: storage, storage of the state, and optimizer.
  """
  config = default.get_config()
  config.data.expected.dense = 4
  config.data.expected.rows = (rows * chips, rows * chips, 100)
  config.data.expected.hotness = hotness
  config.model.dim = dim
  config.model.bottom = (64,)
  config.model.top = (64,)
  config.tables.shards = chips
  config.tables.placement = 'row_wise'
  storage, state, optimizer = kept or ('float32', 'float32', 'rowwise_adagrad')
  config.tables.storage, config.tables.state = storage, state
  config.table_optimizer.name = optimizer
  return build_task(config, *open_schema(config))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'topology', 'dim', 'kept'),
  [
    ('one id', 'v5e:1x1', 128, None),
    ('one id', 'v5e:1x1', 16, None),
    ('bags', 'v5e:2x4', 64, None),
    ('one id', 'v5e:1x1', 128, ('float32', 'bfloat16', 'rowwise_adagrad')),
    ('one id', 'v5e:1x1', 16, ('bfloat16', 'bfloat16', 'adam')),
    ('one id', 'v5e:1x1', 64, ('float16', 'float32', 'adagrad')),
    ('bags', 'v5e:2x4', 64, ('int8', 'bfloat16', 'adagrad')),
    ('one id', 'v5e:1x1', 64, ('int4', 'bfloat16', 'adagrad')),
    ('one id', 'v5e:1x1', 64, ('int2', 'float32', 'adam')),
  ],
)
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_memory_is_as_planned_and_nothing_has_the_size_of_a_table(
  name, topology, dim, kept
):
  devices, batch, cells = chips.find_devices(topology), 1024, 102_400_000
  rows = cells // dim
  task = make_task(HOTNESS[name], len(devices), rows, dim, kept)
  step = compiled.compile_step(task, batch, devices)
  collection = task.collection
  use = Workload(
    collection.hotness, batch, len(devices), row_state(task.table_tx)
  )
  planned = step_memory(task, collection.layout, use).total
  assert planned == pytest.approx(step.memory.total, rel=0.1)
  storage = task.collection.tables[0].storage
  table = rows * storage.row_bytes(dim)  # bytes of a chip's part of one
  assert step.memory.arguments > 2 * table
  assert step.memory.temporaries < table / 10
  assert step.memory.outputs < table / 10
  assert max((c.bytes for c in step.collectives), default=0) < table / 10
  assert bool(step.collectives) == (len(devices) > 1)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_a_step_of_every_model_compiles_for_tpus(name):
  fields = {
    'model.norm': 'batch',
    'model.dropout': 0.1,
    'tables.l2': 0.1,
    'tables.features': {'C1': {'update': 'dense'}},
    'train.clip': 1.0,
    'train.plateau.patience': 1,
  }
  task = family.task_of(name, fields)
  devices = chips.find_devices('v5e:2x4')
  step = compiled.compile_step(task, family.BATCH, devices)
  assert step.collectives


@needs_compiler
def test_a_step_that_does_not_fit_says_how_much_it_wanted():
  task = make_task(HOTNESS['one id'], 1, rows=40_000_000)
  told, numbers = compiled.report(task, 1024, 'v5e:1x1')
  assert told[0].endswith('DOES NOT FIT')
  assert not numbers['fits']
  wanted, available = map(float, re.findall(r'([\d.]+) GB', told[1]))
  assert wanted == pytest.approx(2 * 40e6 * (128 + 1) * 4 / 1e9, rel=0.02)
  assert available == pytest.approx(15.75 * 2**30 / 1e9, rel=0.01)


@needs_compiler
@pytest.mark.slow
def test_a_step_that_a_cache_has_is_compiled_again_without_a_warning():
  """Commands of tests share a cache."""
  flags = '--config=synthetic', '--devices=1', '--compile=v5e:1x1'
  for _ in range(2):
    done = commands.run(['-m', 'dlrm_jax.plan', *flags])
    assert 'Warning' not in done.stderr
    assert 'it fits' in done.stdout


@needs_compiler
def test_slices_that_there_are_not():
  with pytest.raises(InputError, match=r'v5e:7x.* such as v5e:1x1, v5e:2x4'):
    chips.find_devices('v5e:7x9')


@pytest.mark.parametrize(
  'topology', ['nonsense', 'v5e', 'v5e:', 'v5e:1X1', 'v5e:0x1', 'v5e:2x2x2', '']
)
def test_what_is_no_slice_is_refused(topology):
  with pytest.raises(InputError, match='expected v5e, v5p, v6e and the chips'):
    chips.find_devices(topology)


def test_shards_and_batch_must_fit_the_chips():
  task = make_task(HOTNESS['one id'], 3, rows=10)
  with pytest.raises(InputError, match=r'shards is 3; .* multiple of the 8'):
    compiled.compile_step(task, 1024, jax.devices())
  task = make_task(HOTNESS['one id'], 8, rows=10)
  with pytest.raises(
    InputError, match=r'batch_size is 1001; .* of the 8 chips'
  ):
    compiled.compile_step(task, 1001, jax.devices())


def test_the_compilers_refusal_is_read():
  said = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
    'for HLO temporaries (19.10G) exceeds available HBM (15.75G).\nSee more.'
  )
  error = compiled.OutOfMemory(said)
  assert error.wanted == round(19.10 * 2**30)
  assert 'See more' not in error.summary
  assert compiled.OutOfMemory('RESOURCE_EXHAUSTED').wanted is None
