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

from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.load import (
  RowState,
  Workload,
  copies_memory,
  exchange_memory,
  layout_load,
)
from dlrm_jax.rows import Pytree
from dlrm_jax.training.gradients import AT_ONCE
from dlrm_jax.training.state import Task, abstract_params

_FLOAT = 4
_PROGRAM = 12 * 10**6  # steps compiled for TPUs have 8 to 18 MB


class StepMemory(NamedTuple):
  """Bytes of a device.

  Attributes:
    tables: values and optimizer state, with padding.
    copies: of stacks whose width neither divides 128 nor is a multiple of
      it, which a TPU lays out anew to scatter into them.
    dense: parameters of the layers, their optimizer state and gradients.
    program: the code, with its constants.
    work: the batch and activations, or rows on their way and their update:
      what is more.
  """

  tables: int
  copies: int
  dense: int
  program: int
  work: int

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


def kernels(
  model: nn.Module, dense: int, features: tuple[Feature, ...]
) -> list[tuple[int, int]]:
  """Widths of what goes into a model's layers, and comes out of them.

  No device is touched.

  Args:
    model: (f32[B, N], f32[B, F, D]) -> f32[B].
    dense: N.
    features: the sparse ones, with their encodings.
  """

  def init() -> Pytree:
    vectors = jnp.zeros((1, len(features), features[0].encoding.dim))
    return model.init(jax.random.key(0), jnp.zeros((1, dense)), vectors)

  leaves = jax.tree.leaves(jax.eval_shape(init))
  return [x.shape for x in leaves if len(x.shape) == 2]


def _bytes(tree: Pytree) -> int:
  return sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def layers_memory(
  model: nn.Module,
  dense: int,
  features: tuple[Feature, ...],
  batch: int,
  micro_batch: int,
) -> int:
  """Bytes of activations, their gradients, and the batch, on a device.

  Args:
    model: (f32[B, N], f32[B, F, D]) -> f32[B].
    dense: N.
    features: the sparse ones, with their encodings.
    batch: examples of a device.
    micro_batch: those that it computes at a time; 0: all.
  """
  dim = features[0].encoding.dim
  layers = kernels(model, dense, features)
  activations = sum(width for _, width in layers)
  joined = max((width for width, _ in layers), default=0)
  # Vectors and their gradients; parts, where they are other than vectors.
  vectors = 2 * (len(features) + 1) * dim
  parts = sum(_parts(feature) for feature in features)
  at_once = min(batch, AT_ONCE * micro_batch) if micro_batch else batch
  work = at_once * (activations + joined + parts)
  return _FLOAT * (work + batch * (dense + vectors))


def _parts(feature: Feature) -> int:
  """Floats an example that an encoding has beside its vector."""
  encoding, own = feature.encoding, feature.encoding.activations()
  widths = [table.dim for table in encoding.tables]
  if widths == [encoding.dim] and not own:
    return 0  # the part is the vector
  return feature.bags.count * (2 * sum(widths) + own)


def layers_bytes(task: Task) -> int:
  """Bytes of the parameters of the layers, those of encodings with them."""
  return _bytes(abstract_params(task))


def step_memory(task: Task, layout: Layout, use: Workload) -> StepMemory:
  """What a device needs to train.

  Args:
    task: the model and its optimizer.
    layout: of the tables.
    use: batch, devices and the optimizer of the tables.
  """
  features = task.collection.features
  parameters = abstract_params(task)
  state = jax.eval_shape(task.tx.init, parameters)
  shape = task.dense_features, features, use.local_batch, task.micro_batch
  layers = layers_memory(task.model, *shape)
  return StepMemory(
    tables=layout_load(layout, use).bytes,
    copies=copies_memory(layout, use),
    dense=2 * _bytes(parameters) + _bytes(state),
    program=_PROGRAM,
    work=max(layers, exchange_memory(layout, use)),
  )
