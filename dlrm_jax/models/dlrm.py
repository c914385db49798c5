"""DLRM: bottom MLP, explicit interaction, top MLP, a logit.

Source: Naumov et al., "Deep Learning Recommendation Model for
Personalization and Recommendation Systems", arXiv 1906.00091. The model sees
vectors: which tables they came from is not its business.
"""

import enum

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dlrm_jax.models.interaction import cat_interaction, dot_interaction
from dlrm_jax.models.mlp import MLP


class Interaction(enum.Enum):
  """How vectors meet."""

  DOT = 'dot'
  DOT_ITSELF = 'dot_itself'
  CAT = 'cat'


class DLRM(nn.Module):
  """Deep learning recommendation model.

  Attributes:
    bottom: widths of the MLP over dense features, ReLU after each; for a dot
      interaction the last one is D.
    top: widths of the hidden layers of the MLP over interactions; a single
      logit follows.
    interaction: dot, dot with the products of vectors with themselves, or
      concatenation.
    dtype: of matrix products, float32 or bfloat16; sums, activations and
      parameters are float32.
  """

  bottom: tuple[int, ...]
  top: tuple[int, ...]
  interaction: Interaction = Interaction.DOT
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, dense: jax.Array, vectors: jax.Array) -> jax.Array:
    """Scores a batch.

    Args:
      dense: f32[B, N]; without dense features (N = 0) there is no bottom MLP.
      vectors: f32[B, F, D].

    Returns:
      Logits f32[B].
    """
    has_dense = dense.shape[1] > 0
    x = dense
    if has_dense:
      x = MLP(self.bottom, True, self.dtype, name='bottom')(dense)
    if self.interaction is Interaction.CAT:
      joined = jnp.concatenate([x, cat_interaction(vectors)], 1)
    else:
      both = jnp.concatenate([x[:, None], vectors], 1) if has_dense else vectors
      itself = self.interaction is Interaction.DOT_ITSELF
      products = dot_interaction(both, itself, self.dtype)
      joined = jnp.concatenate([x, products], 1)
    return MLP((*self.top, 1), False, self.dtype, name='top')(joined)[:, 0]
