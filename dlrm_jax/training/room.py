"""Whether there is room for a run, found out before anything is allocated.

What is counted is needed in any case: state, gradients, batches that wait. A
run that is let through may need more.
"""

import math
from typing import NamedTuple

import jax

from dlrm_jax.data.loader import rows_ahead
from dlrm_jax.data.schema import BLOCK_ROWS
from dlrm_jax.errors import InputError
from dlrm_jax.machine import free_memory
from dlrm_jax.rows import Pytree
from dlrm_jax.sharding import device_count, on_cpu
from dlrm_jax.training.gradients import count_pieces
from dlrm_jax.training.memory import layers_memory
from dlrm_jax.training.plan import human
from dlrm_jax.training.run import Run
from dlrm_jax.training.state import Task, abstract_state

_SURE = 0.9  # of what is counted, where XLA may share memory
_FLOAT = 4


class Need(NamedTuple):
  """Bytes: of a device, but for the batches that wait on the host.

  Attributes:
    tables: with their optimizer's state.
    layers: parameters, their gradients and their optimizer's state.
    step: the batch, its vectors and activations.
    evaluation: the same of an evaluation's batch, without gradients.
    read_ahead: batches and shuffled rows on the host.
    evaluation_ahead: batches of an evaluation on the host.
  """

  tables: int
  layers: int
  step: int
  evaluation: int
  read_ahead: int
  evaluation_ahead: int

  @property
  def device(self) -> int:
    """Bytes of a device at the same time."""
    return self.tables + self.layers + max(self.step, self.evaluation)

  @property
  def host(self) -> int:
    """Bytes of the host, beside the devices."""
    return self.read_ahead + self.evaluation_ahead


_ADVICE = {
  'tables': 'choose another config.tables.encoding, a lower config.model.dim, '
  'or more devices',
  'layers': 'lower config.model.bottom, config.model.top or config.model.dim',
  'step': 'lower config.train.batch_size or widths of config.model',
  'evaluation': 'lower config.train.eval_batch_size (of evaluate: '
  '--batch_size) or config.model.dim',
  'read_ahead': 'lower config.train.batch_size or config.data.window',
  'evaluation_ahead': 'lower config.train.eval_batch_size (of evaluate: '
  '--batch_size)',
}


def _held(tree: Pytree) -> int:
  """Bytes of a device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def _evaluation(task: Task, examples: int) -> int:
  """Bytes of a device to score examples."""
  features = task.collection.features
  dim = features[0].encoding.dim
  hotness = sum(feature.hotness for feature in features)
  width = task.dense_features + hotness + (len(features) + 1) * dim
  return _FLOAT * examples * width


def needs(run: Run) -> Need:
  """What a run needs at least, on the mesh in use."""
  task, devices = run.task, device_count()
  processes = jax.process_count()
  state = abstract_state(task)
  local = run.reading.batch_size // devices
  piece = local // count_pieces(local, task.micro_batch)
  schema = run.data.schema
  row = _FLOAT * (len(schema.dense) + schema.hotness + 2)
  examples = run.data.splits['train']
  windows = run.reading.lanes * run.reading.window * BLOCK_ROWS
  ahead = rows_ahead(run.reading.batch_size, examples, run.steps)
  # One split is evaluated after the other.
  largest = max(
    (n for split, n in run.data.splits.items() if split != 'train'), default=0
  )
  batches = -(-largest // run.eval_batch_size)
  evaluated = rows_ahead(run.eval_batch_size, largest, batches)
  return Need(
    tables=_held((state.tables, state.table_state)),
    layers=_held((state.params, state.params, state.opt_state)),
    step=layers_memory(
      task.model, task.dense_features, task.collection.features, local, piece
    ),
    evaluation=_evaluation(task, run.eval_batch_size // devices),
    read_ahead=(ahead + min(examples, windows)) // processes * row,
    evaluation_ahead=evaluated // processes * row,
  )


def _device_room() -> int | None:
  """Bytes of a device that is no CPU; None where it does not say."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get('bytes_limit')


def check_room(run: Run) -> None:
  """Raises where a run can't fit into this machine.

  Raises:
    InputError: names what is needed, what there is, and what to lower.
  """
  _check_need(needs(run))


def check_evaluation_room(task: Task, batch_size: int) -> None:
  """Raises where batches of an evaluation can't fit into this machine.

  Args:
    task: that was trained.
    batch_size: examples of a global batch.

  Raises:
    InputError: as `check_room`.
  """
  state = abstract_state(task)
  hotness = sum(feature.hotness for feature in task.collection.features)
  row = _FLOAT * (task.dense_features + hotness + 2)
  need = Need(
    tables=_held(state.tables),
    layers=_held(state.params),
    step=0,
    evaluation=_evaluation(task, batch_size // device_count()),
    read_ahead=0,
    evaluation_ahead=batch_size // jax.process_count() * row,
  )
  _check_need(need)


def _check_need(need: Need) -> None:
  devices = device_count() // jax.process_count()
  if on_cpu():
    _check(need, need.device * devices + need.host, free_memory(), 'memory')
    return
  room = _device_room()
  if room is not None:
    _check(need, need.device, room, 'memory of a device')
  _check(need, need.host, free_memory(), 'memory of the host')


def _check(need: Need, size: int, room: int, what: str) -> None:
  if size * _SURE <= room:
    return
  parts = need._asdict()
  if what == 'memory of a device':
    parts = {k: v for k, v in parts.items() if not k.endswith('ahead')}
  if what == 'memory of the host':
    parts = {k: v for k, v in parts.items() if k.endswith('ahead')}
  largest = max(parts, key=lambda name: parts[name])
  said = ', '.join(
    f'{name.replace("_", " ")} {human(part)}'
    for name, part in parts.items()
    if part
  )
  raise InputError(
    f'it takes {human(size)} of {what} ({said}), and there are '
    f'{human(room)}: {_ADVICE[largest]}'
  )
