"""Dense layers with the initialisation of facebookresearch/dlrm."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

# JAX's glorot_normal would truncate at two standard deviations.
_glorot_normal = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal')


def _bias_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  return jax.random.normal(key, shape) * math.sqrt(1 / shape[-1])


class Dense(nn.Module):
  """An affine layer, f32[B, in] -> f32[B, out].

  Starts with W ~ N(0, 2 / (in + out)) and b ~ N(0, 1 / out), as
  facebookresearch/dlrm does. Sums are float32.

  Attributes:
    width: width of the output, out.
    dtype: dtype of the operands of the product, float32 or bfloat16.
  """

  width: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """The product with the kernel, plus the bias."""
    shape = (x.shape[-1], self.width)
    kernel = self.param('kernel', _glorot_normal, shape)
    bias = self.param('bias', _bias_init, shape[1:])
    y = jnp.dot(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      preferred_element_type=jnp.float32,
    )
    return y + bias[None]  # ranks equal, as strict promotion asks


class MLP(nn.Module):
  """Dense layers with ReLU between them; parameters `dense_0`, `dense_1`, ...

  Attributes:
    widths: widths of the layers' outputs.
    activate_last: whether ReLU follows the last layer, too.
    dtype: dtype of the operands of the products.
  """

  widths: tuple[int, ...]
  activate_last: bool
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """f32[B, in] -> f32[B, widths[-1]]."""
    for i, width in enumerate(self.widths):
      x = Dense(width, self.dtype, name=f'dense_{i}')(x)
      if self.activate_last or i < len(self.widths) - 1:
        x = nn.relu(x)
    return x
