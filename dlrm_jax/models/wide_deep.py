"""Wide & deep: a linear model beside an MLP, their logits added.

    logits = b + sum_f w_f[id_f] + w . x + MLP([bottom(x), v_1, ..., v_F])

A wide part of crossed features, as in the paper, has them as columns of the
data.

Source: Cheng et al., "Wide & Deep Learning for Recommender Systems", arXiv
1606.07792, equation 3.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax

from dlrm_jax.models.deep import Deep
from dlrm_jax.models.lr import Linear
from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import LINEAR, VECTORS


class WideDeep(Deep):
  """Wide & deep; its fields are those of `Deep`."""

  def roles(self, dim: int) -> dict[str, int]:
    """Widths of the vectors, and of the weights of ids: one an output."""
    return {VECTORS: dim, LINEAR: self.outputs}

  @nn.compact
  def __call__(
    self,
    dense: jax.Array,
    vectors: Mapping[str, jax.Array],
    train: Training | None = None,
  ) -> jax.Array:
    """Scores a batch.

    Args:
      dense: f32[B, N].
      vectors: role 'vectors' f32[B, F, D] and role 'linear' f32[B, F, T].
      train: seed and places in training; None when scoring.

    Returns:
      Logits f32[B, T].
    """
    wide = Linear(name='linear')(dense, vectors[LINEAR])
    x = self.joined(dense, vectors[VECTORS], train)
    return wide + self.mlp((*self.top, self.outputs), 'top', False)(x, train)
