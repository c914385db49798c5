"""DLRM: bottom MLP, explicit interaction, top MLP, a logit.

Source: Naumov et al., "Deep Learning Recommendation Model for
Personalization and Recommendation Systems", arXiv 1906.00091.
"""

import enum
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dlrm_jax.models.interaction import cat_interaction, dot_interaction
from dlrm_jax.models.mlp import MLP, Norm
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


class DLRM(nn.Module):
  """Deep learning recommendation model.

  Attributes:
    bottom: widths of the MLP over the dense features, with ReLU after each
      layer; the last one must be D where dense features interact.
    top: widths of the hidden layers of the MLP over the interactions; a
      layer of the logits follows.
    interaction: the interaction of the vectors.
    dtype: dtype of the operands of matrix products, float32 or bfloat16;
      sums, activations and parameters are float32.
    outputs: T, the number of logits.
    norm: normalisation of the hidden layers of both MLPs.
    dropout: rate of dropout after these layers.
  """

  bottom: tuple[int, ...]
  top: tuple[int, ...]
  interaction: Interaction = Interaction.DOT
  dtype: DTypeLike = jnp.float32
  outputs: int = 1
  norm: Norm = Norm.NONE
  dropout: float = 0.0

  def roles(self, dim: int) -> dict[str, int]:
    """Width of the vectors of each role: one role, of width D."""
    return {VECTORS: dim}

  def misfit(self, shapes: Shapes) -> str:
    """Why the model cannot take such inputs; '' where it can.

    The reason begins with the field of `config.model` that is to blame.
    """
    if self.interaction is Interaction.CAT:
      return ''
    count, width = shapes.vectors[VECTORS]
    if count + bool(shapes.dense) < 2:
      return (
        f'interaction is {self.interaction.value}, but the data has one '
        'feature, which has nothing to interact with; set it to cat'
      )
    if shapes.dense and self.bottom[-1] != width:
      return (
        f'bottom ends in width {self.bottom[-1]}; expected {width}, the width '
        'of the vectors that its output interacts with'
      )
    return ''

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
    has_dense = dense.shape[1] > 0
    x = dense
    if has_dense:
      x = self._mlp(self.bottom, 'bottom', True)(dense, train)
    if self.interaction is Interaction.CAT:
      joined = jnp.concatenate([x, cat_interaction(embedded)], 1)
    else:
      if has_dense:
        embedded = jnp.concatenate([x[:, None], embedded], 1)
      itself = self.interaction is Interaction.DOT_ITSELF
      products = dot_interaction(embedded, itself, self.dtype)
      joined = jnp.concatenate([x, products], 1)
    widths = (*self.top, self.outputs)
    return self._mlp(widths, 'top', False)(joined, train)

  def _mlp(self, widths: tuple[int, ...], name: str, last: bool) -> MLP:
    return MLP(widths, last, self.dtype, self.norm, self.dropout, name=name)
