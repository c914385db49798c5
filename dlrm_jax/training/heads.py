"""Heads: the tasks of a model, each with its column of logits and its loss."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from dlrm_jax.batch import Batch

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits f32[B], labels f32[B]) -> losses f32[B]."""


@dataclasses.dataclass(frozen=True)
class Head:
  """A task of a model: head t is column t of its logits and of the labels.

  Attributes:
    loss: loss of each example, from logits.
    name: name of the task in logs and results.
    weight: factor of its loss in the sum over all heads.
  """

  loss: Loss
  name: str = 'click'
  weight: float = 1.0


def label_weights(batch: Batch, head: int) -> jax.Array:
  """Weights of the examples for a head, f32[B]; 0 where the label is NaN."""
  missing = jnp.isnan(batch.labels[:, head])
  return jnp.where(missing, 0.0, batch.weights)


def total_weights(heads: Sequence[Head], batch: Batch) -> list[jax.Array]:
  """Sum of the weights of the labelled examples of each head, f32[] each."""
  return [jnp.sum(label_weights(batch, head)) for head in range(len(heads))]


def summed_loss(
  heads: Sequence[Head],
  logits: jax.Array,
  batch: Batch,
  totals: Sequence[jax.Array],
) -> jax.Array:
  """A part's share of the loss of a batch, f32[].

  The loss of a head is the weighted mean over the examples that have a label
  for it; the loss of a batch is the sum over heads, by their weights. The
  shares of all parts of a batch add up to its loss.

  Args:
    heads: the tasks, one a column of logits.
    logits: f32[B, T] of the part.
    batch: the part.
    totals: sums of weights over the whole batch, f32[] for each head.
  """
  parts = []
  for i, head in enumerate(heads):
    labels = batch.labels[:, i]
    losses = head.loss(logits[:, i], jnp.where(jnp.isnan(labels), 0.0, labels))
    share = jnp.sum(losses * label_weights(batch, i)) / totals[i]
    parts.append(share if head.weight == 1 else head.weight * share)
  return sum(parts[1:], parts[0])
