"""Memory and traffic of a planned task on its devices, as text and as JSON."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dlrm_jax.embedding.load import (
  Load,
  Workload,
  imbalance,
  layout_load,
  load_by_table,
)
from dlrm_jax.embedding.planner import placement_name
from dlrm_jax.run.summary import saving_lines
from dlrm_jax.text import human
from dlrm_jax.training.memory import (
  StepMemory,
  layers_bytes,
  layers_flops,
  row_state,
  step_memory,
)
from dlrm_jax.training.sizes import saving
from dlrm_jax.training.state import Task


@dataclasses.dataclass(frozen=True)
class Forecast:
  """A task on devices.

  Attributes:
    task: the task, with its tables placed.
    whys: reason for the placement of each table, by its name.
    batch: examples of a step on all devices together.
    devices: number of devices, which divides the shards.
    budget: memory of a device, in bytes.
    notes: assumptions of the plan that training does not make.
  """

  task: Task
  whys: Mapping[str, str]
  batch: int
  devices: int
  budget: int
  notes: tuple[str, ...]

  @property
  def use(self) -> Workload:
    """Inputs of the cost model besides the layout."""
    hotness = self.task.collection.hotness
    state = row_state(self.task.table_tx)
    return Workload(hotness, self.batch, self.devices, state)

  @property
  def load(self) -> Load:
    """Rows, reads and traffic of all tables."""
    return layout_load(self.task.collection.layout, self.use)

  @property
  def memory(self) -> StepMemory:
    """Memory of a device in a training step."""
    return step_memory(self.task, self.task.collection.layout, self.use)

  @property
  def layers_sent(self) -> float:
    """Bytes that a device sends in a step to sum the layers' gradients."""
    return 2 * (1 - 1 / self.devices) * layers_bytes(self.task)

  @property
  def flops(self) -> int:
    """Operations of a device in a step, see `layers_flops`."""
    return layers_flops(self.task, self.use.local_batch)

  @property
  def fits(self) -> bool:
    """Whether a step fits into the memory of a device."""
    return self.memory.total <= self.budget


def _table_rows(forecast: Forecast) -> list[dict[str, Any]]:
  """Numbers of each table, the largest table first."""
  collection, use = forecast.task.collection, forecast.use
  loads = load_by_table(collection.layout, use)
  return [
    {
      'name': t.name,
      'features': list(collection.readers(t)),
      'rows': t.rows,
      'dim': t.dim,
      'storage': t.storage.name,
      'hotness': list(use.hotness[t.name]),
      'state': t.state.name,
      'bytes': t.rows * use.state.bytes(t),
      'placement': placement_name(t.placement, collection.layout.shards),
      'why': forecast.whys[t.name],
      'reads': float(loads[t.name].reads.sum()),
      'sent': loads[t.name].sent,
    }
    for t in sorted(collection.tables, key=lambda t: -t.rows * t.dim)
  ]


def forecast_json(forecast: Forecast) -> dict[str, Any]:
  """All numbers and notes, as JSON values."""
  tables, memory = forecast.load, forecast.memory
  return {
    'devices': forecast.devices,
    'shards': forecast.task.collection.layout.shards,
    'batch': forecast.batch,
    'budget': forecast.budget,
    'fits': forecast.fits,
    'memory': {**memory._asdict(), 'total': memory.total},
    'sent': {'tables': tables.sent, 'layers': forecast.layers_sent},
    'flops': forecast.flops,
    'branches': forecast.task.network.branches,
    'rows': [int(x) for x in tables.rows],
    'reads': [float(x) for x in tables.reads],
    'tables': _table_rows(forecast),
    'encodings': saving(forecast.task)._asdict(),
    'notes': list(forecast.notes),
  }


def _tables(forecast: Forecast) -> Iterator[str]:
  rows = _table_rows(forecast)
  total = sum(row['rows'] for row in rows)
  size = human(sum(row['bytes'] for row in rows))
  yield (
    f"tables    {len(rows)}, {total:,} rows, {size} with the optimizer's state"
  )
  width = max(len(row['name']) for row in rows)
  places = max(len(row['placement']) for row in rows)
  for row in rows:
    yield (
      f'          {row["name"]:<{width}} {row["rows"]:>12,} x {row["dim"]:<4}'
      f'{human(row["bytes"]):>8}  {row["placement"]:<{places}}  {row["why"]}'
    )


def _branches(forecast: Forecast) -> str:
  """What each branch of a model takes of everything."""
  count, memory = forecast.task.network.branches, forecast.memory
  tables, dense = human(memory.tables / count), human(memory.dense / count)
  reads = f'{forecast.load.reads.max() / count:,.0f} rows'
  flops = f'{forecast.flops / count / 1e9:,.3g} GFLOP'
  return (
    f'branches  {count}; for each a device has {tables} of tables and {dense} '
    f'of layers, and in a step at most {reads} to read and {flops} of products'
  )


def _spread(name: str, counts: np.ndarray) -> str:
  """A quantity of each device, or its range where there are many devices."""
  numbers = (
    ' '.join(f'{x:,.0f}' for x in counts)
    if len(counts) <= 8
    else f'{counts.min():,.0f} / {counts.mean():,.0f} / {counts.max():,.0f}'
    ' (least / mean / most)'
  )
  return f'          {name} {numbers}; imbalance {imbalance(counts):.2f}'


def forecast_lines(forecast: Forecast) -> Iterator[str]:
  """Placements, memory and traffic, for a terminal."""
  tables, memory = forecast.load, forecast.memory
  shards = forecast.task.collection.layout.shards
  local = forecast.use.local_batch
  yield from _tables(forecast)
  yield from saving_lines(forecast.task)
  yield (
    f'devices   {forecast.devices}, {shards} shards; batch '
    f'{forecast.batch:,}, {local:,} examples a device'
  )
  yield _spread('rows held', tables.rows)
  yield _spread('rows read in a step, at most', tables.reads)
  yield (
    f'exchange  {human(tables.sent)} of rows and bags sent by a device in a '
    f'step, {human(forecast.layers_sent)} of gradients of the layers'
  )
  yield (
    f'memory    {human(memory.total)} of {human(forecast.budget)} of a device: '
    f'{"it fits" if forecast.fits else "IT DOES NOT FIT"}'
  )
  for name, size in memory._asdict().items():
    yield f'          {name:<10}{human(size):>8}'
  yield (
    f'products  {forecast.flops / 1e9:,.3g} GFLOP of the layers on a device in '
    f'a step; those of interactions are not counted'
  )
  if forecast.task.network.branches > 1:
    yield _branches(forecast)
  for note in forecast.notes:
    yield f'note      {note}'
