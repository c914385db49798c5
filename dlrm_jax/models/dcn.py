"""DCN-V2: layers that multiply the inputs with each other, and an MLP.

    x_0 = [bottom(x), v_1, ..., v_F]
    x_{l+1} = x_0 * (W_l x_l + b_l) + x_l                full rank
    x_{l+1} = x_0 * (U_l (V_l x_l) + b_l) + x_l          low rank
    logits = MLP(x_L)                                    stacked
    logits = W [x_L, MLP(x_0)] + b                       parallel

`*` multiplies elements. The low rank is that of MLPerf's DLRM-DCNv2.

Source: Wang et al., "DCN V2: Improved Deep & Cross Network and Practical
Lessons for Web-scale Learning to Rank Systems", arXiv 2008.13535, equations 1
and 2.
"""

import enum
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.models.deep import Deep
from dlrm_jax.models.int8 import Operands
from dlrm_jax.models.layer import Layer
from dlrm_jax.models.mlp import Dense
from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import VECTORS, Shapes


class Structure(enum.Enum):
  """Where the MLP is.

  STACKED: after the cross layers.
  PARALLEL: beside them; a layer of the logits joins both.
  """

  STACKED = 'stacked'
  PARALLEL = 'parallel'


class Cross(Layer):
  """A cross layer: parameters `kernel`, or `down` and `up`; and `bias`.

  Attributes:
    rank: the number of columns of U; 0: W has full rank.
    operands: what products multiply.
  """

  rank: int
  operands: Operands

  @nn.compact
  def __call__(self, start: jax.Array, x: jax.Array) -> jax.Array:
    """x_{l+1} f32[B, n] from x_0 and x_l, f32[B, n]."""
    width = x.shape[-1]
    widths = {'kernel': width}
    if self.rank:
      widths = {'down': self.rank, 'up': width}
    y = x
    for name, outputs in widths.items():
      y = self.times(y, name, outputs, self.operands)
    bias = self.param('bias', nn.initializers.zeros, (width,))
    return start * (y + bias[None]) + x


class DCN(Deep):
  """Deep & cross network, version 2; fields as in `Deep`, and these.

  Attributes:
    layers: L, the number of cross layers.
    rank: rank of their matrices; 0: full rank.
    structure: where the MLP is.
  """

  layers: int = 3
  rank: int = 0
  structure: Structure = Structure.STACKED

  def misfit(self, shapes: Shapes) -> str:
    """Why the model cannot have such layers; '' where it can."""
    del shapes
    if self.layers < 1:
      return f'dcn.layers is {self.layers}; expected 1 or more'
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
      dense: f32[B, N].
      vectors: those of role 'vectors', f32[B, F, D].
      train: seed and places in training; None when scoring.

    Returns:
      Logits f32[B, T].
    """
    start = crossed = self.joined(dense, vectors[VECTORS], train)
    for i in range(self.layers):
      layer = Cross(self.rank, self.operands, name=f'cross_{i}')
      crossed = layer(start, crossed)
    if self.structure is Structure.STACKED:
      widths = (*self.top, self.outputs)
      return self.mlp(widths, 'top', False)(crossed, train)
    deep = self.mlp(self.top, 'top', True)(start, train)
    both = jnp.concatenate([crossed, deep], 1)
    return Dense(self.outputs, self.operands, name='out')(both)
