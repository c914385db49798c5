"""Checks before anything is allocated whether a run fits into the memory.

The check counts only what is needed in any case, whatever XLA fuses, computes
twice or lets share memory: the state, the batch, one copy of its vectors, the
output of the widest layer, the rows that are shuffled. So a run that fits is
never refused; a run that passes may still need more.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrm_jax.data.records import Fields
from dlrm_jax.data.schema import BLOCK_ROWS
from dlrm_jax.errors import InputError
from dlrm_jax.machine import free_memory
from dlrm_jax.models.int8 import float_type
from dlrm_jax.rows import Pytree
from dlrm_jax.run.description import Run
from dlrm_jax.sharding import device_count, on_cpu
from dlrm_jax.text import human
from dlrm_jax.training.gradients import count_pieces
from dlrm_jax.training.memory import kernels
from dlrm_jax.training.state import Task, abstract_state

_SURE = 0.9  # part of the count that is certain
_FLOAT = 4


class Need(NamedTuple):
  """Bytes that a run needs, of a device and of the host.

  Attributes:
    tables: tables and the state of their optimizer.
    layers: parameters and the state of their optimizer.
    step: a batch, its vectors, and the output of the widest layer.
    evaluation: the same for a batch of an evaluation.
    windows: the shuffled rows, on the host.
  """

  tables: int
  layers: int
  step: int
  evaluation: int
  windows: int

  @property
  def device(self) -> int:
    """Bytes that a device needs at the same time."""
    return self.tables + self.layers + max(self.step, self.evaluation)

  @property
  def host(self) -> int:
    """Bytes that the host needs beside the devices."""
    return self.windows


_ADVICE = {
  'tables': 'choose another config.tables.encoding, a lower config.model.dim, '
  'or more devices',
  'layers': 'lower config.model.bottom, config.model.top or config.model.dim',
  'step': 'lower config.train.batch_size or widths of config.model',
  'evaluation': 'lower config.train.eval_batch_size (of evaluate: '
  '--batch_size) or config.model.dim',
  'windows': 'lower config.data.window or config.data.lanes',
}


def held(tree: Pytree) -> int:
  """Bytes that a device holds of arrays."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def _example(task: Task) -> int:
  """Bytes of an example of a batch: features, ids, labels, weight."""
  network = task.network
  return _FLOAT * (network.dense_features + network.ids + len(task.heads) + 1)


def _gathered(task: Task) -> int:
  """Bytes of the rows of an example or of its vectors, whichever are fewer.

  An encoding may combine narrow rows to a wide vector, or wide rows to a
  narrow one.
  """
  return _FLOAT * sum(
    min(f.encoding.dim, sum(table.dim for table in f.encoding.tables))
    for f in task.collection.features
  )


def _widest(task: Task) -> int:
  """Bytes of an example in the widest output of any layer."""
  layers = kernels(task.network.model, task.network.shapes)
  return _product(task) * max((width for _, width in layers), default=0)


def _product(task: Task) -> int:
  """Bytes of a number in the matrix products of a model; of a sum of int8."""
  model = task.network.model
  model = getattr(model, 'model', model)  # of a branch
  operands = getattr(model, 'operands', jnp.float32)
  return jnp.dtype(float_type(operands)).itemsize


def _step(task: Task, examples: int) -> int:
  """Bytes that a device needs to train on examples; layers see pieces."""
  piece = examples // count_pieces(examples, task.piece)
  each = _example(task) + _gathered(task)
  return examples * each + piece * _widest(task)


def _evaluation(task: Task, examples: int) -> int:
  """Bytes that a device needs to score examples.

  The vectors of all examples are operands of one product, so they exist at the
  same time, but not together with the outputs of later layers.
  """
  dims = sum(feature.encoding.dim for feature in task.collection.features)
  vectors = _product(task) * dims
  return examples * (_example(task) + max(vectors, _widest(task)))


def needs(run: Run) -> Need:
  """The least memory that a run needs, on the mesh in use."""
  task, devices = run.task, device_count()
  state = abstract_state(task)
  schema = run.data.schema
  windows = run.reading.lanes * run.reading.window * BLOCK_ROWS
  shuffled = min(run.data.splits['train'], windows) // jax.process_count()
  evaluates = any(run.data.splits.get(x) for x in ('validation', 'test'))
  batch = run.eval_batch_size if evaluates else 0
  return Need(
    tables=held((state.tables, state.table_state)),
    layers=held((state.params, state.opt_state)),
    step=_step(task, run.reading.batch_size // devices),
    evaluation=_evaluation(task, batch // devices),
    windows=shuffled * _FLOAT * Fields.of(schema).width,
  )


def _device_room() -> int | None:
  """Memory in bytes of a GPU or TPU; None if it does not report it."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get('bytes_limit')


def check_room(run: Run) -> None:
  """Checks that a run can fit into this machine.

  Raises:
    InputError: it cannot; names the need, the memory, and fields to lower.
  """
  _check_need(needs(run))


def check_evaluation_room(task: Task, batch_size: int) -> None:
  """Checks that batches of an evaluation can fit into this machine.

  Args:
    task: the trained task.
    batch_size: number of examples of a global batch.

  Raises:
    InputError: as `check_room`.
  """
  state = abstract_state(task)
  need = Need(
    tables=held(state.tables),
    layers=held(state.params),
    step=0,
    evaluation=_evaluation(task, batch_size // device_count()),
    windows=0,
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
    del parts['windows']
  if what == 'memory of the host':
    parts = {'windows': need.windows}
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
