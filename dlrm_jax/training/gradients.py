"""Gradients of a batch: for the layers' parameters and the gathered vectors.

A device computes its part of the batch in pieces, *micro-batches*, and adds
up their gradients. The result is that of one piece to rounding. What differs
is the memory that activations take, and on a CPU the time: activations of a
piece stay in the caches, and two pieces at a time keep the cores busy where
one product alone does not.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax

from dlrm_jax.batch import Batch
from dlrm_jax.embedding.collection import Vectors
from dlrm_jax.embedding.network import Layers
from dlrm_jax.errors import InputError
from dlrm_jax.models.mode import Training
from dlrm_jax.rows import Pytree
from dlrm_jax.sharding import (
  AXIS,
  COPIED,
  SPLIT,
  device_count,
  on_cpu,
  on_each_device,
  over_devices,
)
from dlrm_jax.training.heads import summed_loss, total_weights
from dlrm_jax.training.state import Task

AT_ONCE = 2
"""Number of pieces that can run at the same time."""

_CPU_PIECE = 1024  # most examples of a piece, where the config names no number
_CPU_LEAST = 256


class StepMetrics(NamedTuple):
  """Metrics of a step, computed with the parameters before its update.

  Attributes:
    loss: f32[], the loss of the batch; the mean over branches.
    largest: for each stage the largest magnitude, f32[]; inf where one of its
      numbers is NaN or infinite. Read it where the loss is not finite: it
      shows where the numbers went wrong. On CPUs, where computing it costs a
      twentieth of a step, it is zeros as long as the loss is finite.
  """

  loss: jax.Array
  largest: dict[str, jax.Array]


def count_pieces(examples: int, micro_batch: int | None) -> int:
  """Number of pieces that a device makes of its part of a batch.

  Args:
    examples: number of examples of the part.
    micro_batch: number of examples of a piece; None: a number that suits the
      backend.

  Raises:
    InputError: the part cannot be cut into equal pieces of this size.
  """
  if micro_batch is not None:
    size = min(micro_batch, examples)
    if examples % size:
      raise InputError(
        f'config.train.micro_batch is {micro_batch}; expected a divisor of '
        f'the {examples} examples that each device has of a batch'
      )
    return examples // size
  if not on_cpu() or examples < _CPU_PIECE:
    return 1
  fewest = AT_ONCE * -(-examples // (AT_ONCE * _CPU_PIECE))
  counts = range(fewest, examples // _CPU_LEAST + 1)
  return next((n for n in counts if examples % n == 0), 1)


class Gradients(NamedTuple):
  """What a batch gives.

  Attributes:
    metrics: those of the step; no penalty is in its loss.
    params: gradients of the layers' parameters.
    vectors: gradients of the gathered bags, f32[B, G, D] for each stack.
    statistics: those of the layers, after the batch.
  """

  metrics: StepMetrics
  params: Pytree
  vectors: Vectors
  statistics: Pytree


def gradients(
  task: Task, layers: Layers, batch: Batch, vectors: Vectors, seed: jax.Array
) -> Gradients:
  """Loss and gradients of a batch.

  Args:
    task: what is trained.
    layers: parameters and statistics of the layers.
    batch: the global batch.
    vectors: the bags gathered for it, f32[B, G, D] for each stack.
    seed: u32[], another number in each step, for what layers draw at random.
  """
  on_devices = on_each_device(
    functools.partial(_of_part, task),
    (COPIED, SPLIT, SPLIT, COPIED),
    cast(Any, Gradients)(COPIED, COPIED, SPLIT, COPIED),
  )
  return on_devices(layers, batch, vectors, seed)


def _of_part(
  task: Task, layers: Layers, batch: Batch, vectors: Vectors, seed: jax.Array
) -> Gradients:
  """`gradients` on one device, which has a part of the batch."""
  totals = over_devices(lax.psum, total_weights(task.heads, batch))
  totals = [jnp.where(total > 0, total, 1) for total in totals]
  examples = len(batch.labels)
  pieces = count_pieces(examples, task.piece)
  places = jnp.arange(examples, dtype=jnp.int32)
  if device_count() > 1:
    places = places + lax.axis_index(AXIS) * examples
  in_pieces = jax.tree.map(
    lambda x: x.reshape(pieces, examples // pieces, *x.shape[1:]),
    (batch, vectors, places),
  )

  def add_piece(
    sums: tuple[jax.Array, Pytree], piece: tuple[Batch, Vectors, jax.Array]
  ) -> tuple[tuple[jax.Array, Pytree], tuple[jax.Array, Vectors, Pytree]]:
    part, of_part, places = piece
    (loss, (logits, statistics)), (grads, vector_grads) = jax.value_and_grad(
      functools.partial(
        _loss, task, totals, part, Training(seed, places), layers.statistics
      ),
      (0, 1),
      has_aux=True,
    )(layers.params, of_part)
    sums = jax.tree.map(jnp.add, sums, (loss, grads))
    return sums, (logits, vector_grads, statistics)

  zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, layers.params)
  sums, (*by_piece, statistics) = lax.scan(
    add_piece, zeros, in_pieces, unroll=min(pieces, AT_ONCE)
  )
  loss, grads = over_devices(lax.psum, sums)
  if task.network.branches > 1:
    loss = loss / task.network.branches
  logits, vector_grads = jax.tree.map(
    lambda x: x.reshape(examples, *x.shape[2:]), tuple(by_piece)
  )
  if task.bag_l2:
    total = over_devices(lax.psum, jnp.sum(batch.weights))
    decay = task.bag_l2 * batch.weights / jnp.where(total > 0, total, 1)
    vector_grads = jax.tree.map(
      lambda grad, bags: grad + decay[:, None, None] * bags,
      vector_grads,
      vectors,
    )
  stages = {
    'dense features': batch.inputs.dense,
    **{f'vectors {stack}': v for stack, v in vectors.items()},
    'logits': logits,
    'loss': loss,
  }
  return Gradients(
    metrics=StepMetrics(loss, _largest(loss, stages)),
    params=grads,
    vectors=vector_grads,
    # Layers with statistics see the whole part as one piece.
    statistics=jax.tree.map(lambda x: x[0], statistics),
  )


def _loss(
  task: Task,
  totals: Sequence[jax.Array],
  batch: Batch,
  train: Training,
  statistics: Pytree,
  params: Pytree,
  vectors: Vectors,
) -> tuple[jax.Array, tuple[jax.Array, Pytree]]:
  """A piece's share of the loss, f32[]; its logits f32[B, K, T]; statistics.

  The loss is the sum over the K branches.
  """
  by_branch, statistics = task.network.apply_in_training(
    Layers(params, statistics), batch.inputs, vectors, train
  )
  losses = [
    summed_loss(task.heads, by_branch[:, k], batch, totals)
    for k in range(by_branch.shape[1])
  ]
  return sum(losses[1:], losses[0]), (by_branch, statistics)


def _largest(
  loss: jax.Array, stages: dict[str, jax.Array]
) -> dict[str, jax.Array]:
  """Largest magnitudes over all devices, see `StepMetrics`."""

  def magnitude(x: jax.Array) -> jax.Array:
    # A maximum over devices may ignore NaN, so NaN becomes infinity.
    size = jnp.where(jnp.isfinite(x), jnp.abs(x), jnp.inf)
    return jnp.max(size, initial=0.0)

  if on_cpu():
    found = lax.cond(
      jnp.isfinite(loss),
      lambda stages: {name: jnp.zeros(()) for name in stages},
      lambda stages: jax.tree.map(magnitude, stages),
      stages,
    )
  else:  # a GPU would have to wait for the loss to know its branch
    found = jax.tree.map(magnitude, stages)
  return over_devices(lax.pmax, found)
