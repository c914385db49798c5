"""Neural collaborative filtering: GMF, MLP and NeuMF.

    GMF:    logits = h (p_u * q_i) + b
    MLP:    logits = h hidden([bottom(x), v_1, ..., v_F]) + b
    NeuMF:  logits = (GMF + MLP) / 2, with vectors of their own

`hidden` is an MLP with ReLU after each layer. Tables and layers have the same
names in all three, so that a NeuMF can start from a trained GMF and MLP, whose
outputs the paper weights by 1/2, too.

Source: He et al., "Neural Collaborative Filtering", arXiv 1708.05031,
equations 8 to 13.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.models.deep import Deep
from dlrm_jax.models.int8 import Operands
from dlrm_jax.models.mlp import Dense
from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import Shapes, needs_a_pair, needs_no_dense

_GMF, _MLP = 'gmf', 'mlp'  # roles


def _gmf(pair: jax.Array, outputs: int, operands: Operands) -> jax.Array:
  """Logits f32[B, T] of the vectors of users and items, f32[B, 2, D]."""
  return Dense(outputs, operands, name='gmf_out')(pair[:, 0] * pair[:, 1])


class GMF(nn.Module):
  """Generalised matrix factorisation.

  Attributes:
    operands: what the product multiplies.
    outputs: T, the number of logits.
  """

  operands: Operands = jnp.float32
  outputs: int = 1

  def roles(self, dim: int) -> dict[str, int]:
    """Width of the vectors of users and items."""
    return {_GMF: dim}

  def misfit(self, shapes: Shapes) -> str:
    """Why the model cannot take such inputs; '' where it can."""
    return needs_a_pair('gmf', shapes, _GMF) or needs_no_dense('gmf', shapes)

  @nn.compact
  def __call__(
    self,
    dense: jax.Array,
    vectors: Mapping[str, jax.Array],
    train: Training | None = None,
  ) -> jax.Array:
    """Logits f32[B, T] of dense f32[B, 0] and role 'gmf' f32[B, 2, D]."""
    del dense, train
    return _gmf(vectors[_GMF], self.outputs, self.operands)


class DeepNCF(Deep):
  """The paper's MLP; its fields are those of `Deep`."""

  def roles(self, dim: int) -> dict[str, int]:
    """Width of the vectors."""
    return {_MLP: dim}

  @nn.compact
  def __call__(
    self,
    dense: jax.Array,
    vectors: Mapping[str, jax.Array],
    train: Training | None = None,
  ) -> jax.Array:
    """Logits f32[B, T] of dense f32[B, N] and role 'mlp' f32[B, F, D]."""
    x = self.joined(dense, vectors[_MLP], train)
    x = self.mlp(self.top, 'top', True)(x, train)
    return Dense(self.outputs, self.operands, name='mlp_out')(x)


class NeuMF(DeepNCF):
  """GMF beside the MLP; fields as in `Deep`, and this one.

  Attributes:
    mlp_dim: width of the vectors of the MLP; 0: D, as those of GMF.
  """

  mlp_dim: int = 0

  def roles(self, dim: int) -> dict[str, int]:
    """Widths of the vectors of both parts."""
    return {_GMF: dim, _MLP: self.mlp_dim or dim}

  def misfit(self, shapes: Shapes) -> str:
    """Why the model cannot take such inputs; '' where it can."""
    return needs_a_pair('neumf', shapes, _GMF)

  @nn.compact
  def __call__(
    self,
    dense: jax.Array,
    vectors: Mapping[str, jax.Array],
    train: Training | None = None,
  ) -> jax.Array:
    """Scores a batch.

    Args:
      dense: f32[B, N], inputs of the MLP only.
      vectors: role 'gmf' f32[B, 2, D] and role 'mlp' f32[B, 2, mlp_dim].
      train: seed and places in training; None when scoring.

    Returns:
      Logits f32[B, T].
    """
    factors = _gmf(vectors[_GMF], self.outputs, self.operands)
    return 0.5 * (factors + super().__call__(dense, vectors, train))
