"""Logistic regression: a weight for each id, one for each dense feature.

    logit = b + sum_f w_f[id_f] + w . x

Source: McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD
2013, section 3, without its optimizer.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import LINEAR, Shapes


class Linear(nn.Module):
  """A sum of weights; all its own parameters start at 0."""

  @nn.compact
  def __call__(self, dense: jax.Array, weights: jax.Array) -> jax.Array:
    """Logits of a batch.

    Args:
      dense: f32[B, N]; without dense features (N = 0) there is no kernel.
      weights: weights of the ids, f32[B, F, T].

    Returns:
      f32[B, T].
    """
    outputs = weights.shape[-1]
    bias = self.param('bias', nn.initializers.zeros, (outputs,))
    logits = jnp.sum(weights, 1) + bias[None]
    if not dense.shape[1]:
      return logits
    shape = (dense.shape[1], outputs)
    return logits + dense @ self.param('kernel', nn.initializers.zeros, shape)


class LR(nn.Module):
  """Logistic regression.

  Attributes:
    outputs: T, the number of logits; each id has a weight for each.
  """

  outputs: int = 1

  def roles(self, dim: int) -> dict[str, int]:
    """Width of the weights of ids."""
    del dim
    return {LINEAR: self.outputs}

  def misfit(self, shapes: Shapes) -> str:
    """It takes all inputs."""
    del shapes
    return ''

  @nn.compact
  def __call__(
    self,
    dense: jax.Array,
    vectors: Mapping[str, jax.Array],
    train: Training | None = None,
  ) -> jax.Array:
    """Logits f32[B, T] of dense f32[B, N] and role 'linear' f32[B, F, T]."""
    del train
    return Linear(name='linear')(dense, vectors[LINEAR])
