"""Dense layers, with the initialisation of facebookresearch/dlrm.

Hidden layers are, in this order: product and bias, normalisation, ReLU,
dropout.
"""

import enum
import math
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.models.batch_norm import BatchNorm
from dlrm_jax.models.int8 import Operands
from dlrm_jax.models.layer import Layer
from dlrm_jax.models.mode import Training, random_bits


class Norm(enum.Enum):
  """What normalises the sums of a hidden layer.

  NONE: nothing does.
  BATCH: batch normalisation, over all examples of the global batch.
  LAYER: layer normalisation, over the units of an example.
  """

  NONE = 'none'
  BATCH = 'batch'
  LAYER = 'layer'


def _bias_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  return jax.random.normal(key, shape) * math.sqrt(1 / shape[-1])


class Dense(Layer):
  """An affine layer, f32[B, in] -> f32[B, out].

  Starts with W ~ N(0, 2 / (in + out)) and b ~ N(0, 1 / out), as
  facebookresearch/dlrm does. Sums are float32.

  Attributes:
    width: width of the output, out.
    operands: what is multiplied.
  """

  width: int
  operands: Operands = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """The product with the kernel, plus the bias."""
    y = self.times(x, 'kernel', self.width, self.operands)
    bias = self.param('bias', _bias_init, (self.width,))
    return y + bias[None]  # ranks equal, as strict promotion asks


class Dropout(nn.Module):
  """Dropout, f32[B, n] -> f32[B, n]: units become 0, the others grow.

  Which units is a function of seed, layer, step and the example's place in
  the global batch. Source: Srivastava et al., JMLR 15 (2014).

  Attributes:
    rate: probability that a unit becomes 0, less than 1.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, train: Training | None) -> jax.Array:
    """Some units 0 in training; in scoring x itself."""
    if train is None or not self.rate:
      return x
    use = zlib.crc32('/'.join(self.path).encode())
    bits = random_bits(train, use, x.shape[-1])
    kept = bits >= jnp.uint32(min(round(self.rate * 2**32), 2**32 - 1))
    return jnp.where(kept, x / (1 - self.rate), 0.0)


class MLP(nn.Module):
  """Dense layers with ReLU between them; parameters `dense_0`, `dense_1`, ...

  Attributes:
    widths: widths of the layers' outputs.
    activate_last: whether the last layer is a hidden one, too: followed by
      normalisation, ReLU and dropout.
    operands: what products multiply.
    norm: normalisation of hidden layers.
    dropout: rate of dropout after hidden layers.
  """

  widths: tuple[int, ...]
  activate_last: bool
  operands: Operands = jnp.float32
  norm: Norm = Norm.NONE
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x: jax.Array, train: Training | None = None) -> jax.Array:
    """f32[B, in] -> f32[B, widths[-1]]."""
    for i, width in enumerate(self.widths):
      x = Dense(width, self.operands, name=f'dense_{i}')(x)
      if not self.activate_last and i == len(self.widths) - 1:
        break
      if self.norm is Norm.BATCH:
        x = BatchNorm(name=f'norm_{i}')(x, train)
      elif self.norm is Norm.LAYER:
        x = nn.LayerNorm(epsilon=1e-5, name=f'norm_{i}')(x)
      x = Dropout(self.dropout, name=f'dropout_{i}')(nn.relu(x), train)
    return x
