"""Factorization machine: a weight and a vector for each variable.

    logit = b + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j

The variables are the ids of an example, whose x is 1, and the dense features,
which have vectors of their own. The second sum is computed in linear time, as
half of the difference between the square of the sum and the sum of squares of
all x_i v_i.

Source: Rendle, "Factorization Machines", ICDM 2010, equations 1 and 3.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.models.interaction import sum_of_products
from dlrm_jax.models.lr import Linear
from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import LINEAR, VECTORS, Shapes, needs_one_output


class FM(nn.Module):
  """Factorization machine of second order.

  Attributes:
    outputs: T, the number of labels, which must be 1.
  """

  outputs: int = 1

  def roles(self, dim: int) -> dict[str, int]:
    """Widths of the vectors and of the weights of ids."""
    return {VECTORS: dim, LINEAR: 1}

  def misfit(self, shapes: Shapes) -> str:
    """Why the model cannot take such inputs; '' where it can."""
    del shapes
    return needs_one_output('fm', self.outputs)

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
      vectors: of the ids: role 'vectors' f32[B, F, D], role 'linear'
        f32[B, F, 1].
      train: not needed.

    Returns:
      Logits f32[B, 1].
    """
    del train
    terms = vectors[VECTORS]
    if dense.shape[1]:
      shape = (dense.shape[1], terms.shape[-1])
      own = self.param('dense_vectors', nn.initializers.normal(0.01), shape)
      terms = jnp.concatenate([dense[:, :, None] * own[None], terms], 1)
    linear = Linear(name='linear')(dense, vectors[LINEAR])
    return linear + sum_of_products(terms)
