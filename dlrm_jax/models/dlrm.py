"""DLRM: bottom MLP, explicit interaction, top MLP, a logit.

Source: Naumov et al., "Deep Learning Recommendation Model for
Personalization and Recommendation Systems", arXiv 1906.00091.
"""

import enum
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.models.deep import Deep
from dlrm_jax.models.int8 import float_type
from dlrm_jax.models.interaction import cat_interaction, dot_interaction
from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import VECTORS, Shapes


class Interaction(enum.Enum):
  """What is computed from pairs of vectors.

  DOT: inner products of all pairs of different vectors.
  DOT_ITSELF: also those of each vector with itself.
  CAT: nothing; the vectors are concatenated.
  """

  DOT = 'dot'
  DOT_ITSELF = 'dot_itself'
  CAT = 'cat'


class DLRM(Deep):
  """Deep learning recommendation model; fields as in `Deep`, and this one.

  Where dense features interact, the last width of `bottom` must be D.

  Attributes:
    interaction: the interaction of the vectors.
  """

  interaction: Interaction = Interaction.DOT

  def misfit(self, shapes: Shapes) -> str:
    """Why the model cannot take such inputs; '' where it can."""
    if self.interaction is Interaction.CAT:
      return ''
    count, _ = shapes.vectors[VECTORS]
    if count + bool(shapes.dense) < 2:
      return (
        f'dlrm.interaction is {self.interaction.value}, but the data has one '
        'feature, which has nothing to interact with; set it to cat'
      )
    return self.bottom_misfit(shapes)

  @nn.compact
  def __call__(
    self,
    dense: jax.Array,
    vectors: Mapping[str, jax.Array],
    train: Training | None = None,
  ) -> jax.Array:
    """Scores a batch.

    Args:
      dense: f32[B, N]; without dense features (N = 0) there is no bottom MLP.
      vectors: those of role 'vectors', f32[B, F, D].
      train: seed and places in training; None when scoring.

    Returns:
      Logits f32[B, T].
    """
    embedded = vectors[VECTORS]
    x = self.over_dense(dense, train)
    if self.interaction is Interaction.CAT:
      joined = jnp.concatenate([x, cat_interaction(embedded)], 1)
    else:
      if dense.shape[1]:
        embedded = jnp.concatenate([x[:, None], embedded], 1)
      itself = self.interaction is Interaction.DOT_ITSELF
      dtype = float_type(self.operands)
      products = dot_interaction(embedded, itself, dtype)
      joined = jnp.concatenate([x, products], 1)
    widths = (*self.top, self.outputs)
    return self.mlp(widths, 'top', False)(joined, train)
