"""Gradients of a batch: of the layers' parameters, and of gathered vectors.

A device computes its part of the batch in pieces, *micro-batches*, and adds
up what they give. The result is that of one piece to rounding; what differs
is the memory that activations take, and on a CPU the time: activations of a
piece stay in the caches, and two pieces at a time keep the cores busy where
one product alone does not.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dlrm_jax.batch import Batch
from dlrm_jax.embedding.collection import Vectors
from dlrm_jax.embedding.exchange import over_devices
from dlrm_jax.errors import InputError
from dlrm_jax.rows import Pytree
from dlrm_jax.sharding import COPIED, SPLIT, on_cpu, on_each_device
from dlrm_jax.training.state import Task

AT_ONCE = 2
"""Pieces that can run at the same time."""

_CPU_PIECE = 1024  # most examples of a piece, where nobody says
_CPU_LEAST = 256


class StepMetrics(NamedTuple):
  """What a training step tells; all before its update.

  Attributes:
    loss: f32[], mean over the batch.
    largest: where the loss is not finite, the largest magnitude f32[] of each
      stage, inf where one of its numbers is not finite: it tells where the
      loss went wrong. Otherwise zeros on CPUs: looking costs a twentieth of
      a step there.
  """

  loss: jax.Array
  largest: dict[str, jax.Array]


def count_pieces(examples: int, micro_batch: int) -> int:
  """How many pieces a device makes of its part of a batch.

  Args:
    examples: of the part.
    micro_batch: examples of a piece; 0: whatever suits the backend.

  Raises:
    InputError: the pieces can't be equal.
  """
  if micro_batch:
    if examples % min(micro_batch, examples):
      raise InputError(
        f'config.train.micro_batch is {micro_batch}; expected a divisor of '
        f'the {examples} examples that each device has of a batch'
      )
    return examples // min(micro_batch, examples)
  if not on_cpu() or examples < _CPU_PIECE:
    return 1
  fewest = AT_ONCE * -(-examples // (AT_ONCE * _CPU_PIECE))
  counts = range(fewest, examples // _CPU_LEAST + 1)
  return next((n for n in counts if examples % n == 0), 1)


def gradients(
  task: Task, params: Pytree, batch: Batch, vectors: Vectors
) -> tuple[StepMetrics, Pytree, Vectors]:
  """Loss and gradients of a batch.

  Args:
    task: what is trained.
    params: of the layers.
    batch: the global one.
    vectors: gathered for it, f32[B, G, D] for each stack.

  Returns:
    Metrics, gradients of the parameters, gradients of the vectors.
  """

  def local(
    params: Pytree, batch: Batch, vectors: Vectors
  ) -> tuple[StepMetrics, Pytree, Vectors]:
    weight = over_devices(lax.psum, jnp.sum(batch.weights))
    weight = jnp.where(weight > 0, weight, 1)

    def loss_fn(
      params: Pytree, vectors: Vectors, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
      logits: Any = task.recommender.apply({'params': params}, batch, vectors)
      losses = task.loss(logits, batch.labels)
      return jnp.sum(losses * batch.weights) / weight, logits

    def piece(sums: Pytree, part: tuple[Batch, Vectors]) -> tuple[Pytree, Any]:
      batch, vectors = part
      (loss, logits), (grads, vector_grads) = jax.value_and_grad(
        loss_fn, (0, 1), has_aux=True
      )(params, vectors, batch)
      sums = jax.tree.map(jnp.add, sums, (loss, grads))
      return sums, (logits, vector_grads)

    examples = len(batch.labels)
    count = count_pieces(examples, task.micro_batch)
    cut = jax.tree.map(
      lambda x: x.reshape(count, examples // count, *x.shape[1:]),
      (batch, vectors),
    )
    zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    (loss, grads), made = lax.scan(piece, zero, cut, unroll=min(count, AT_ONCE))
    loss, grads = over_devices(lax.psum, (loss, grads))
    logits, vector_grads = jax.tree.map(
      lambda x: x.reshape(examples, *x.shape[2:]), made
    )
    largest = _largest(
      loss,
      {
        'dense features': batch.dense,
        **{f'vectors {stack}': v for stack, v in vectors.items()},
        'logits': logits,
        'loss': loss,
      },
    )
    return StepMetrics(loss, largest), grads, vector_grads

  return on_each_device(local, (COPIED, SPLIT, SPLIT), (COPIED, COPIED, SPLIT))(
    params, batch, vectors
  )


def _largest(
  loss: jax.Array, stages: dict[str, jax.Array]
) -> dict[str, jax.Array]:
  """Largest magnitudes over all devices."""

  def look(x: jax.Array) -> jax.Array:
    # A maximum over devices may pass over what is no number.
    size = jnp.where(jnp.isfinite(x), jnp.abs(x), jnp.inf)
    return jnp.max(size, initial=0.0)

  if on_cpu():
    found = lax.cond(
      jnp.isfinite(loss),
      lambda stages: {name: jnp.zeros(()) for name in stages},
      lambda stages: jax.tree.map(look, stages),
      stages,
    )
  else:  # a GPU would wait for the loss to know its branch
    found = jax.tree.map(look, stages)
  return over_devices(lax.pmax, found)
