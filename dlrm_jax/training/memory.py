"""The memory of a device in a training step, from shapes alone.

It counts what compiled steps were seen to hold; `python -m dlrm_jax.plan
--compile` compiles the real step.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.embedding.features import Feature, shapes_of_roles
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.load import (
  RowState,
  Workload,
  copies_memory,
  exchange_memory,
  layout_load,
)
from dlrm_jax.models.shapes import Shapes
from dlrm_jax.optim.rowwise import RowTransform
from dlrm_jax.rows import Pytree
from dlrm_jax.training.gradients import AT_ONCE
from dlrm_jax.training.state import Task, abstract_params

_FLOAT = 4
_PROGRAM = 12 * 10**6  # steps compiled for TPUs have 8 to 18 MB


class StepMemory(NamedTuple):
  """Memory of a device in a training step, in bytes, by use.

  Attributes:
    tables: values and optimizer state, with padding.
    copies: of stacks whose width neither divides 128 nor is a multiple of
      it, which a TPU lays out anew to scatter into them.
    dense: parameters of the layers, their optimizer state and gradients.
    program: the code, with its constants.
    work: the batch and activations, or the rows in the exchange and their
      update, whichever is more.
  """

  tables: int
  copies: int
  dense: int
  program: int
  work: int

  @property
  def total(self) -> int:
    """Sum of all parts."""
    return sum(self)


def row_state(tx: RowTransform) -> RowState:
  """The state that a transform keeps for the rows of a table."""
  rows, dim = 7, 3
  table = {'table': jax.ShapeDtypeStruct((rows, dim), jnp.float32)}
  shapes = [x.shape for x in jax.tree.leaves(jax.eval_shape(tx.init, table))]
  return RowState(shapes.count((rows, dim)), shapes.count((rows,)))


def kernels(model: nn.Module, shapes: Shapes) -> list[tuple[int, int]]:
  """Input and output width of each layer of a model; no device is touched."""

  def init() -> Pytree:
    vectors = {
      role: jnp.zeros((1, *shape)) for role, shape in shapes.vectors.items()
    }
    dense = jnp.zeros((1, shapes.dense))
    return model.init(jax.random.key(0), dense, vectors)['params']

  leaves = jax.tree.leaves(jax.eval_shape(init))
  return [x.shape for x in leaves if len(x.shape) == 2]


def layers_flops(task: Task, examples: int) -> int:
  """Floating-point operations of the layers' products in a training step.

  Each layer has a product forward and two of its size backward, and a
  multiplication and an addition are two operations. Interactions and the
  layers of encodings are not counted.

  Args:
    task: the task.
    examples: number of examples.
  """
  layers = kernels(task.network.model, task.network.shapes)
  return 6 * examples * sum(width * out for width, out in layers)


def tree_bytes(tree: Pytree) -> int:
  """Bytes of all arrays of a tree."""
  return sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def layers_memory(
  model: nn.Module,
  dense: int,
  features: tuple[Feature, ...],
  batch: int,
  micro_batch: int | None,
) -> int:
  """Bytes of activations, their gradients, and the batch, on a device.

  Args:
    model: the layers over dense features and vectors.
    dense: N, the number of dense features.
    features: the sparse features, with their encodings.
    batch: number of examples of a device.
    micro_batch: number of them that it computes at a time; None: all.
  """
  layers = kernels(model, Shapes(dense, shapes_of_roles(features)))
  activations = sum(width for _, width in layers)
  joined = max((width for width, _ in layers), default=0)
  # Vectors and their gradients, one more for the output of a bottom MLP; parts
  # where an encoding's parts are not its vectors.
  dims = [feature.encoding.dim for feature in features]
  vectors = 2 * (sum(dims) + max(dims))
  parts = sum(_parts(feature) for feature in features)
  at_once = min(batch, AT_ONCE * micro_batch) if micro_batch else batch
  work = at_once * (activations + joined + parts)
  return _FLOAT * (work + batch * (dense + vectors))


def _parts(feature: Feature) -> int:
  """Number of floats an example that an encoding has beside its vector."""
  encoding, own = feature.encoding, feature.encoding.activations()
  widths = [table.dim for table in encoding.tables]
  if widths == [encoding.dim] and not own:
    return 0  # the part is the vector
  return feature.bags.count * (2 * sum(widths) + own)


def layers_bytes(task: Task) -> int:
  """Bytes of the parameters of all layers, those of encodings included."""
  return tree_bytes(abstract_params(task))


def step_memory(task: Task, layout: Layout, use: Workload) -> StepMemory:
  """Memory that a device needs to train.

  Args:
    task: the network and its optimizers.
    layout: layout of the tables.
    use: batch, devices and the optimizer of the tables.
  """
  network, features = task.network, task.collection.features
  parameters = abstract_params(task)
  state = jax.eval_shape(task.tx.init, parameters)
  layers = layers_memory(
    network.model,
    network.dense_features,
    features,
    use.local_batch,
    task.piece,
  )
  return StepMemory(
    tables=layout_load(layout, use).bytes,
    copies=copies_memory(layout, use),
    dense=2 * tree_bytes(parameters) + tree_bytes(state),
    program=_PROGRAM,
    work=max(layers, exchange_memory(layout, use)),
  )
