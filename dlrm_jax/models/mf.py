"""Matrix factorisation with biases: a vector and a bias for each user and item.

    logit = b + b_u + b_i + <p_u, q_i>

Source: Koren, Bell, Volinsky, "Matrix Factorization Techniques for
Recommender Systems", IEEE Computer 42 (2009), equation 4; for implicit
feedback Rendle et al., arXiv 2005.09683.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax

from dlrm_jax.models.lr import Linear
from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import (
  LINEAR,
  VECTORS,
  Shapes,
  needs_a_pair,
  needs_no_dense,
  needs_one_output,
)


class MF(nn.Module):
  """Matrix factorisation.

  Attributes:
    outputs: T, the number of labels, which must be 1.
  """

  outputs: int = 1

  def roles(self, dim: int) -> dict[str, int]:
    """Widths of the vectors and of the biases of users and items."""
    return {VECTORS: dim, LINEAR: 1}

  def misfit(self, shapes: Shapes) -> str:
    """Why the model cannot take such inputs; '' where it can."""
    return (
      needs_one_output('mf', self.outputs)
      or needs_a_pair('mf', shapes, VECTORS)
      or needs_no_dense('mf', shapes)
    )

  @nn.compact
  def __call__(
    self,
    dense: jax.Array,
    vectors: Mapping[str, jax.Array],
    train: Training | None = None,
  ) -> jax.Array:
    """Scores a batch.

    Args:
      dense: f32[B, 0].
      vectors: of user and item: role 'vectors' f32[B, 2, D], role 'linear'
        f32[B, 2, 1].
      train: not needed.

    Returns:
      Logits f32[B, 1].
    """
    del train
    biases = Linear(name='linear')(dense, vectors[LINEAR])
    user, item = vectors[VECTORS][:, 0], vectors[VECTORS][:, 1]
    return biases + (user * item).sum(1, keepdims=True)
