"""Bytes that devices exchange in a step, beside the least possible.

python -m benchmarks.exchanged_bytes

MLPerf's tables, D = 128, one id a feature, row-wise, batch 65,536, for 2, 4
and 8 devices. Counted in the compiled program; nothing is allocated or run.
The least that a device sends, and receives, if every id travels: its share of
ids out, of vectors home, of gradients out. Distinct rows travel, and of a
small table there are few: the least for those, whatever the ids, is less.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from benchmarks import machine
from configs import criteo_mlperf
from dlrm_jax.build.data import open_schema
from dlrm_jax.build.task import build_task
from dlrm_jax.hlo import exchanged
from dlrm_jax.plan.compiled import CompiledStep, compile_step
from dlrm_jax.training.state import Task

BATCH = 65_536
DEVICES = (2, 4, 8)


class Least(NamedTuple):
  """Bytes that a device sends at least, forward and backward.

  Attributes:
    every: where every id travels.
    distinct: where no device asks another for more rows than it has.
  """

  every: float
  distinct: float


def least_bytes(
  rows: Iterable[int], dim: int, batch: int, devices: int
) -> Least:
  """For tables of so many rows, one id an example each, row-wise.

  >>> least = least_bytes([100] * 26, dim=128, batch=65_536, devices=8)
  >>> f'{least.every / 1e6:.1f} MB, {least.distinct / 1e6:.1f} MB'
  '191.6 MB, 2.3 MB'
  """
  asked = batch / devices / devices
  per_id = (devices - 1) * (4 + 4 * dim + 4 * dim)
  return Least(
    every=per_id * sum(asked for _ in rows),
    distinct=per_id * sum(min(asked, r / devices) for r in rows),
  )


def _config(variant: str, fewer: int) -> ConfigDict:
  """MLPerf's config with one id a feature and row-wise tables."""
  config = criteo_mlperf.get_config(variant)
  rows = config.data.expected.rows
  config.data.expected.rows = tuple(-(-r // fewer) for r in rows)
  config.data.expected.hotness = ()
  config.tables.placement = 'row_wise'
  config.tables.shards = max(DEVICES)
  config.train.batch_size = BATCH
  return config


def _row(name: str, task: Task, step: CompiledStep) -> dict[str, str]:
  tables = task.collection.tables
  rows = [t.rows for t in tables]
  least = least_bytes(rows, tables[0].dim, BATCH, step.chips)
  swapped = exchanged(step.collectives, 'all-to-all')
  total = exchanged(step.collectives)
  largest = max(c.bytes for c in step.collectives if not c.overflow)
  return {
    'tables': name,
    'rows': f'{sum(rows):,}',
    'devices': str(step.chips),
    'sent for tables': f'{swapped / 1e6:.1f} MB',
    'with layers': f'{total / 1e6:.1f} MB',
    'least, every id': f'{least.every / 1e6:.1f} MB',
    'ratio': f'{total / least.every:.2f}',
    'least, distinct': f'{least.distinct / 1e6:.1f} MB',
    'ratio ': f'{swapped / least.distinct:.2f}',
    'largest exchange': f'{largest / 1e6:.1f} MB',
    'temporaries': f'{step.memory.temporaries / 1e6:,.0f} MB',
  }


def main() -> None:
  """Compiles for every number of devices and prints what moves."""
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', max(DEVICES))
  rows = []
  for name, variant, fewer in (
    ('v0.7', 'onehot', 1),
    ('v0.7, rows / 10', 'onehot', 10),
    ('v3.0', 'multihot', 1),
  ):
    config = _config(variant, fewer)
    task = build_task(config, *open_schema(config))
    for devices in DEVICES:
      step = compile_step(task, BATCH, jax.devices()[:devices])
      rows.append(_row(name, task, step))
  machine.show('exchanged_bytes', rows)


if __name__ == '__main__':
  main()
