"""Kernels of layers, in the form that their operands have."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dlrm_jax.errors import InputError
from dlrm_jax.models.int8 import (
  MOST_INPUTS,
  Codes,
  Int8,
  Operands,
  grid_between,
  grid_of,
  product_of_codes,
)
from dlrm_jax.models.product import product
from dlrm_jax.models.sparse import Sparse, sparse_product

# jax.nn.initializers.glorot_normal would truncate at two standard deviations.
glorot_normal = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal')


class Layer(nn.Module):
  """Base of the layers with kernels.

  A kernel of float32 or bfloat16 is the parameter `name`, f32[in, out]. One of
  int8 is several, which are zeros until `dlrm_jax.quantization.layers` fills
  them:

      name          s8[in, out]  codes
      name_scale    f32[out]
      name_sums     f32[out]
      name_range    f32[2]       limits of the inputs, where calibrated
      name_inputs   i32[n]       inputs multiplied in float32, where there are
      name_exact    f32[n, out]  their weights; their codes are 0

  A sparse kernel is `name` in the shape that its pattern has.
  """

  def times(
    self, x: jax.Array, name: str, width: int, operands: Operands
  ) -> jax.Array:
    """The product of a batch and a kernel of the layer, f32[B, width].

    Args:
      x: f32[B, in].
      name: name of the kernel.
      width: number of its outputs.
      operands: what is multiplied.

    Raises:
      InputError: sums of so many inputs do not fit the integers.
    """
    shape = (x.shape[-1], width)
    if isinstance(operands, Sparse):
      pattern = operands.patterns.get('/'.join((*self.path, name)))
      if pattern is not None:
        zeros = nn.initializers.zeros
        return sparse_product(
          x, self.param(name, zeros, pattern.shape), pattern
        )
      operands = operands.dense
    if not isinstance(operands, Int8):
      return product(x, self.param(name, glorot_normal, shape), operands)
    if shape[0] > MOST_INPUTS:
      raise InputError(
        f'config.model.compute_dtype is int8, and layer '
        f'{"/".join(self.path)} has {shape[0]:,} inputs; expected at most '
        f'{MOST_INPUTS:,}, whose sums fit 32 bits: score with float32'
      )

    def array(end: str, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
      zeros = nn.initializers.zeros
      return self.param(f'{name}{end}', zeros, shape, dtype)

    kernel = Codes(
      array('', shape, jnp.int8),
      array('_scale', shape[1:], jnp.float32),
      array('_sums', shape[1:], jnp.float32),
    )
    grid = None
    if operands.calibrated:
      grid = grid_between(*array('_range', (2,), jnp.float32))
    if not operands.outliers:
      return product_of_codes(x, kernel, grid or grid_of(x))
    count = min(operands.outliers, shape[0])
    apart = array('_inputs', (count,), jnp.int32)
    exact = product(x[:, apart], array('_exact', (count, width), jnp.float32))
    numbers = jnp.arange(shape[0], dtype=jnp.int32)
    coded = jnp.all(numbers[:, None] != apart[None], 1)
    x = jnp.where(coded[None], x, 0.0)
    return exact + product_of_codes(x, kernel, grid or grid_of(x))
