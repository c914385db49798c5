"""The memory of a device in a training step, from shapes alone.

What it counts is what a compiled step was seen to hold; `--compile` of
`dlrm_jax.plan` compiles the real one.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dlrm_jax.embedding.load import RowState, Use, exchange_memory, load
from dlrm_jax.rows import Pytree
from dlrm_jax.training.state import Task

_FLOAT = 4


class StepMemory(NamedTuple):
  """Bytes of a device.

  Attributes:
    tables: values and optimizer state, with padding.
    dense: parameters of the layers, their optimizer state and gradients.
    exchange: of rows and bags on their way, and of the update of rows.
    layers: activations and their gradients, and the batch.
  """

  tables: int
  dense: int
  exchange: int
  layers: int

  @property
  def total(self) -> int:
    """All of it."""
    return sum(self)


def row_state(tx: optax.GradientTransformation) -> RowState:
  """What a transform keeps of the rows of a table."""
  rows, dim = 7, 3
  table = {'table': jax.ShapeDtypeStruct((rows, dim), jnp.float32)}
  shapes = [x.shape for x in jax.tree.leaves(jax.eval_shape(tx.init, table))]
  return RowState(shapes.count((rows, dim)), shapes.count((rows,)))


def _parameters(
  model: nn.Module, dense: int, features: int, dim: int
) -> Pytree:
  """Shapes of a model's parameters; no device is touched."""

  def init() -> Pytree:
    vectors = jnp.zeros((1, features, dim))
    return model.init(jax.random.key(0), jnp.zeros((1, dense)), vectors)

  return jax.eval_shape(init)


def _bytes(tree: Pytree) -> int:
  return sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def layers_memory(
  model: nn.Module, dense: int, features: int, dim: int, batch: int
) -> int:
  """Bytes of activations, their gradients, and the batch, on a device.

  Args:
    model: (f32[B, N], f32[B, F, D]) -> f32[B].
    dense: N.
    features: F.
    dim: D.
    batch: examples of a device.
  """
  parameters = _parameters(model, dense, features, dim)
  kernels = [x.shape for x in jax.tree.leaves(parameters) if len(x.shape) == 2]
  activations = sum(out for _, out in kernels)
  joined = max((width for width, _ in kernels), default=0)
  vectors = 3 * (features + 1) * dim
  return _FLOAT * batch * (dense + activations + 2 * joined + vectors)


def step_memory(task: Task, batch: int, devices: int) -> StepMemory:
  """What a device needs to train.

  Args:
    task: with its tables placed.
    batch: examples of a step, of all devices together.
    devices: n; divides the shards.
  """
  collection = task.collection
  use = Use(collection.hotness, batch, devices, row_state(task.table_tx))
  dim = max(table.dim for table in collection.tables)
  shape = task.dense_features, len(collection.features), dim
  parameters = _parameters(task.model, *shape)
  state = jax.eval_shape(task.tx.init, parameters)
  return StepMemory(
    tables=load(collection.layout, use).bytes,
    dense=2 * _bytes(parameters) + _bytes(state),
    exchange=exchange_memory(collection.layout, use),
    layers=layers_memory(task.model, *shape, use.local_batch),
  )
