"""What a step exchanges and holds on 2, 4, 8 devices, in compiled programs."""

import functools
import itertools

import jax
import pytest

from benchmarks.exchanged_bytes import least_bytes
from configs import default
from dlrm_jax.build.data import open_schema
from dlrm_jax.build.task import build_task
from dlrm_jax.hlo import exchanged
from dlrm_jax.plan.compiled import compile_step

DEVICES = (2, 4, 8)
DIM, BATCH = 32, 4096
ROWS = (1_000_000, 900_000, 800_000, 20)
HOTNESS = {'rows': (1, 1, 1, 1), 'bags': (1, 4, 1, 1)}


@functools.cache
def compile_for(devices, times=1, kind='rows'):
  config = default.get_config()
  config.data.expected.dense = 4
  config.data.expected.rows = tuple(r * times for r in ROWS)
  config.data.expected.hotness = HOTNESS[kind]
  config.model.dim = DIM
  config.model.bottom = (16,)
  config.model.top = (16,)
  config.tables.placement = 'row_wise'
  task = build_task(config, *open_schema(config))
  return compile_step(task, BATCH, jax.devices()[:devices])


@pytest.mark.parametrize('devices', DEVICES)
def test_a_device_sends_little_more_than_the_least(devices):
  step = compile_for(devices)
  least = least_bytes(ROWS, DIM, BATCH, devices)
  assert exchanged(step.collectives) <= 1.5 * least.every
  # Nor less than the rows that may be asked for: else it would overflow.
  assert exchanged(step.collectives, 'all-to-all') >= least.distinct


def test_more_devices_send_and_hold_less_each():
  steps = [compile_for(devices) for devices in DEVICES]
  for fewer, more in itertools.pairwise(steps):
    sent = [exchanged(s.collectives, 'all-to-all') for s in (fewer, more)]
    assert sent[1] < 0.9 * sent[0]
    assert more.memory.temporaries < 0.8 * fewer.memory.temporaries


@pytest.mark.slow
@pytest.mark.parametrize('kind', HOTNESS)
def test_rows_cost_neither_temporaries_nor_exchange(kind):
  few, many = (compile_for(8, times, kind) for times in (1, 10))
  assert many.memory.arguments > 9 * few.memory.arguments
  assert many.memory.temporaries <= 1.05 * few.memory.temporaries
  sent = exchanged(many.collectives, 'all-to-all')
  # The smallest table has room for all of its rows: ten times as much.
  assert sent <= 1.2 * exchanged(few.collectives, 'all-to-all')


@pytest.mark.parametrize('kind', HOTNESS)
def test_nothing_has_the_size_of_a_table(kind):
  step = compile_for(8, 10, kind)
  part = ROWS[2] * 10 // 8 * DIM * 4  # of a table, on a device
  assert step.memory.temporaries < part
  assert max(c.bytes for c in step.collectives) < part / 10
