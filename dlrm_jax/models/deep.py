"""What models with MLPs share: their fields, and how their inputs are joined.

Dense features become a vector by the MLP `bottom`; it is concatenated to the
vectors of the sparse features.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.models.int8 import Operands
from dlrm_jax.models.interaction import cat_interaction
from dlrm_jax.models.mlp import MLP, Norm
from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import VECTORS, Shapes


class Deep(nn.Module):
  """Base of the models with MLPs.

  Attributes:
    bottom: widths of the MLP over the dense features, with ReLU after each
      layer.
    top: widths of the hidden layers of the MLP whose output is the logits.
    operands: what products multiply; activations, and of bfloat16 sums and
      parameters, are float32.
    outputs: T, the number of logits.
    norm: normalisation of the hidden layers of all MLPs.
    dropout: rate of dropout after these layers.
  """

  bottom: tuple[int, ...]
  top: tuple[int, ...]
  operands: Operands = jnp.float32
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
    del shapes
    return ''

  def bottom_misfit(self, shapes: Shapes) -> str:
    """Why the bottom MLP's output cannot interact with the vectors, or ''."""
    _, width = shapes.vectors[VECTORS]
    if not shapes.dense or self.bottom[-1] == width:
      return ''
    return (
      f'bottom ends in width {self.bottom[-1]}; expected {width}, the width '
      'of the vectors that its output interacts with'
    )

  def mlp(self, widths: tuple[int, ...], name: str, hidden: bool) -> MLP:
    """An MLP with the model's operands, normalisation and dropout.

    Args:
      widths: widths of the layers' outputs.
      name: name of its parameters.
      hidden: whether the last layer is a hidden one, too.
    """
    return MLP(
      widths, hidden, self.operands, self.norm, self.dropout, name=name
    )

  def over_dense(self, dense: jax.Array, train: Training | None) -> jax.Array:
    """Output of the bottom MLP, f32[B, bottom[-1]]; f32[B, 0] where N = 0."""
    if not dense.shape[1]:
      return dense
    return self.mlp(self.bottom, 'bottom', True)(dense, train)

  def joined(
    self, dense: jax.Array, vectors: jax.Array, train: Training | None
  ) -> jax.Array:
    """The output of the bottom MLP and all vectors f32[B, F, D] in one line.

    Returns:
      f32[B, bottom[-1] + F D], or f32[B, F D] without dense features.
    """
    x = self.over_dense(dense, train)
    return jnp.concatenate([x, cat_interaction(vectors)], 1)
