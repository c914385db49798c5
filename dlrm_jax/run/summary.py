"""The plan of a run, printed before it starts."""

import math
from collections.abc import Iterator

import jax

from dlrm_jax.embedding.load import Workload
from dlrm_jax.embedding.planner import placement_name
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.embedding.table import Table
from dlrm_jax.run.description import Run
from dlrm_jax.sharding import device_count
from dlrm_jax.text import human
from dlrm_jax.training.gradients import count_pieces
from dlrm_jax.training.memory import row_state, step_memory, tree_bytes
from dlrm_jax.training.sizes import saving, table_sizes
from dlrm_jax.training.state import Task, abstract_state


def saving_lines(task: Task) -> Iterator[str]:
  """A line about the parameters that encodings save, if any does."""
  found, count = saving(task), len(task.collection.features)
  if found.features:
    times = _times(found.plain / found.parameters)
    yield (
      f'encoded   {found.features} of {count} features: '
      f'{found.parameters:,} parameters, {times} '
      f'times fewer than {found.plain:,}'
    )


def _times(ratio: float) -> str:
  return f'{ratio:,.0f}' if ratio >= 100 else f'{ratio:.3g}'


def _placements(task: Task) -> dict[str, str]:
  """Where the rows of each table live, and how they are kept."""
  shards = task.collection.layout.shards

  def words(table: Table) -> str:
    found = [placement_name(table.placement, shards)]
    if table.storage != FLOAT32:
      found.append(table.storage.name)
    if table.state != FLOAT32:
      found.append(f'state {table.state.name}')
    return ', '.join(found)

  return {table.name: words(table) for table in task.collection.tables}


def _memory(run: Run) -> int:
  """Bytes that a device needs in a step."""
  collection, state = run.task.collection, row_state(run.task.table_tx)
  batch = run.reading.batch_size
  use = Workload(collection.hotness, batch, device_count(), state)
  return step_memory(run.task, collection.layout, use).total


def plan_lines(run: Run) -> Iterator[str]:
  """The lines of the plan of a run."""
  state = abstract_state(run.task)
  sizes = table_sizes(run.task)
  devices = jax.devices()
  examples = ', '.join(f'{name} {n:,}' for name, n in run.data.splits.items())
  batch_size = run.reading.batch_size
  epochs = run.steps / run.steps_per_epoch
  dense = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
  yield f'data      {run.data_name}'
  yield f'examples  {examples}'
  yield f'tables    {len(sizes)}, {human(sum(t.bytes for t in sizes))}'
  width = max(len(t.name) for t in sizes)
  places = _placements(run.task)
  for t in sorted(sizes, key=lambda t: -t.bytes):
    shared = '' if len(t.features) == 1 else f'  <- {", ".join(t.features)}'
    yield (
      f'          {t.name:<{width}} {t.rows:>12,} x {t.dim:<4}'
      f'{human(t.bytes):>8}  {places[t.name]}{shared}'
    )
  yield from saving_lines(run.task)
  whole = tree_bytes(state)
  optimizer = tree_bytes(state.opt_state) + tree_bytes(state.table_state)
  yield f'model     {dense:,} dense parameters, {human(dense * 4)}'
  yield (
    f'memory    {human(whole)} of state, {human(optimizer)} of it the '
    f'optimizers; {human(_memory(run))} of a device in a step'
  )
  shards = run.task.collection.layout.shards
  yield (
    f'devices   {len(devices)} x {devices[0].device_kind}; uses '
    f'{device_count()}; tables in {shards} shards'
  )
  each = batch_size // device_count()
  pieces = count_pieces(each, run.task.piece)
  cut = f'; {pieces} micro-batches of {each // pieces:,}' if pieces > 1 else ''
  yield f'batch     {batch_size:,}, {each:,} a device{cut}'
  yield f'steps     {run.steps:,} ({epochs:.3g} epochs)'
  yield f'workdir   {run.workdir}'
  yield from (f'note      {note}' for note in run.notes)
