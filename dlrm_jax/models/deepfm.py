"""DeepFM: a factorization machine and an MLP over the same vectors.

    logit = b + sum_f w_f[id_f] + w . x + sum_{i<j} <v_i, v_j>
            + MLP([v_0, ..., v_F])

v_0 is the output of the bottom MLP over the dense features, v_1 ... v_F are
the vectors of the ids. Without dense features there is no v_0.

Source: Guo et al., "DeepFM: A Factorization-Machine based Neural Network for
CTR Prediction", arXiv 1703.04247, equations 1 to 4.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax

from dlrm_jax.models.deep import Deep
from dlrm_jax.models.interaction import sum_of_products
from dlrm_jax.models.lr import Linear
from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import LINEAR, VECTORS, Shapes, needs_one_output


class DeepFM(Deep):
  """DeepFM; its fields are those of `Deep`, with `outputs` 1."""

  def roles(self, dim: int) -> dict[str, int]:
    """Widths of the vectors and of the weights of ids."""
    return {VECTORS: dim, LINEAR: 1}

  def misfit(self, shapes: Shapes) -> str:
    """Why the model cannot take such inputs; '' where it can."""
    return needs_one_output('deepfm', self.outputs) or self.bottom_misfit(
      shapes
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
      dense: f32[B, N].
      vectors: role 'vectors' f32[B, F, D] and role 'linear' f32[B, F, 1].
      train: seed and places in training; None when scoring.

    Returns:
      Logits f32[B, 1].
    """
    linear = Linear(name='linear')(dense, vectors[LINEAR])
    x = self.joined(dense, vectors[VECTORS], train)
    terms = x.reshape(x.shape[0], -1, vectors[VECTORS].shape[-1])
    deep = self.mlp((*self.top, 1), 'top', False)(x, train)
    return linear + sum_of_products(terms) + deep
