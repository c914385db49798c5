"""What a run is going to do, printed before it does it."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax

from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.load import Use
from dlrm_jax.embedding.planner import placement_name
from dlrm_jax.sharding import device_count
from dlrm_jax.training.gradients import count_pieces
from dlrm_jax.training.memory import row_state, step_memory
from dlrm_jax.training.report import TableSize
from dlrm_jax.training.run import Run
from dlrm_jax.training.state import Task, abstract_state

ERROR = '_std_error'
"""What the name of a metric's standard error ends in."""
ERROR_NOTE = '± one standard error, of AUC by DeLong'


def table_sizes(task: Task) -> list[TableSize]:
  """The tables and the bytes of their values."""
  return [
    TableSize(
      name=table.name,
      features=task.collection.readers(table),
      rows=table.rows,
      dim=table.dim,
      bytes=table.rows * table.dim * 4,
    )
    for table in task.collection.tables
  ]


class Saving(NamedTuple):
  """What the encodings of a task save.

  Attributes:
    features: whose encoding is not plain.
    parameters: of tables and of the layers of encodings.
    plain: parameters, if every table had a row for each of its ids.
  """

  features: int
  parameters: int
  plain: int


def saving(task: Task) -> Saving:
  """Counts parameters; what features share counts once."""
  features, tables = task.collection.features, task.collection.tables
  encodings = {feature.encoding for feature in features}
  layers = sum(encoding.layers() for encoding in encodings)
  return Saving(
    features=sum(not isinstance(f.encoding, Plain) for f in features),
    parameters=sum(t.rows * t.dim for t in tables) + layers,
    plain=sum(encoding.ids * encoding.dim for encoding in encodings),
  )


def saving_lines(task: Task) -> Iterator[str]:
  """What the encodings save, if any is not plain."""
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


def human(count: float) -> str:
  """A size in bytes, three digits.

  >>> human(2_160_000_000)
  '2.16 GB'
  """
  power = min(max(math.floor(math.log10(max(count, 1)) / 3), 0), 4)
  return f'{count / 1000**power:.3g} {("B", "kB", "MB", "GB", "TB")[power]}'


def _bytes(tree: object) -> int:
  return sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def _placements(task: Task) -> dict[str, str]:
  shards = task.collection.layout.shards
  return {
    table.name: placement_name(table.placement, shards)
    for table in task.collection.tables
  }


def _memory(run: Run) -> int:
  """Bytes of a device in a step."""
  collection, state = run.task.collection, row_state(run.task.table_tx)
  batch = run.reading.batch_size
  use = Use(collection.hotness, batch, device_count(), state)
  return step_memory(run.task, collection.layout, use).total


def lines(run: Run) -> Iterator[str]:
  """The plan, line by line."""
  state = abstract_state(run.task)
  sizes = table_sizes(run.task)
  devices = jax.devices()
  examples = ', '.join(f'{name} {n:,}' for name, n in run.data.splits.items())
  batch_size = run.reading.batch_size
  epochs = run.steps * batch_size / run.data.splits['train']
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
  optimizer = _bytes(state.opt_state) + _bytes(state.table_state)
  yield f'model     {dense:,} dense parameters, {human(dense * 4)}'
  yield (
    f'memory    {human(_bytes(state))} of state, {human(optimizer)} of it the '
    f'optimizers; {human(_memory(run))} of a device in a step'
  )
  shards = run.task.collection.layout.shards
  yield (
    f'devices   {len(devices)} x {devices[0].device_kind}; uses '
    f'{device_count()}; tables in {shards} shards'
  )
  each = batch_size // device_count()
  pieces = count_pieces(each, run.task.micro_batch)
  cut = f'; {pieces} micro-batches of {each // pieces:,}' if pieces > 1 else ''
  yield f'batch     {batch_size:,}, {each:,} a device{cut}'
  yield f'steps     {run.steps:,} ({epochs:.3g} epochs)'
  yield f'workdir   {run.workdir}'
  yield from (f'note      {note}' for note in run.notes)


def with_error(scores: Mapping[str, float], metric: str) -> str:
  """A metric, and its standard error where that is known.

  >>> with_error({'auc': 0.7605, 'auc_std_error': 0.0065}, 'auc')
  '0.76050 ± 0.00650'
  """
  error = scores.get(f'{metric}{ERROR}', math.nan)
  shown = _number(metric, scores[metric])
  return shown if math.isnan(error) else f'{shown} ± {error:.5f}'


def score_table(
  title: str,
  scores: Mapping[str, float],
  references: Mapping[str, Mapping[str, float]],
) -> str:
  """Metrics as a small table, beside those to compare with.

  >>> scores = {'auc': 0.5, 'auc_std_error': 0.01, 'ne': math.nan}
  >>> print(score_table('test', scores, {'Bayes': {'auc': 0.8}}))
  test                                             Bayes
    auc                   0.50000 ± 0.01000      0.80000
    ne                  undefined
  ± one standard error, of AUC by DeLong
  """
  names = list(references)
  errors = any(key.endswith(ERROR) for key in scores)
  blank = ' ' * 10 if errors else ''
  head = f'{title:<18}{"":>13}{blank}'
  table = [head + ''.join(f'{name:>13}' for name in names)]
  for key in scores:
    if key.endswith(ERROR):
      continue
    error = scores.get(f'{key}{ERROR}', math.nan)
    spread = blank if math.isnan(error) else f' ± {error:.5f}'
    others = [
      _number(key, reference[key]) if key in reference else ''
      for reference in references.values()
    ]
    table.append(
      f'  {key:<16}{_number(key, scores[key]):>13}{spread}'
      + ''.join(f'{other:>13}' for other in others)
    )
  if errors:
    table.append(ERROR_NOTE)
  return '\n'.join(line.rstrip() for line in table)


def _number(metric: str, value: float) -> str:
  if math.isnan(value):
    return 'undefined'
  if metric == 'auc_bin_bound':
    return f'{value:.1e}'
  return f'{value:,.0f}' if metric in ('examples', 'clicks') else f'{value:.5f}'
