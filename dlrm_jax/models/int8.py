"""Products of inputs and a kernel that are both codes of 8 bits.

A kernel is codes s8[in, out] with a scale for each output; inputs become codes
within limits, those of the example or of the layer:

    w = scale * c                      c from -127 to 127
    x = middle + step * d              middle = (low + high) / 2
                                       step = (high - low) / 254
    x w = step * scale * (d c) + middle * (sum of w over the inputs)

So the product d c is one of s8 with sums of s32, whatever the signs of the
inputs; all else is float32, one multiplication and addition for each output.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from dlrm_jax.models.sparse import Sparse

GREATEST = 127
"""The greatest code; the least is its negative."""

_LEAST_STEP = float(jnp.finfo(jnp.float32).tiny)
"""Steps of 0, those of equal inputs, are divided by as this."""

MOST_INPUTS = (2**31 - 1) // GREATEST**2
"""Most inputs of a kernel whose sums fit s32 for all codes."""


@dataclasses.dataclass(frozen=True)
class Int8:
  """Layers that multiply codes of 8 bits; they score, and are not trained.

  Attributes:
    calibrated: whether the limits of a layer's inputs are parameters, rather
      than the least and the greatest input of each example.
    outliers: number of inputs of each layer that are multiplied in float32:
      those whose size would make the steps of all others large. Source:
      Dettmers et al., "LLM.int8()", arXiv 2208.07339, section 3.2.
  """

  calibrated: bool = False
  outliers: int = 0


Operands = DTypeLike | Int8 | Sparse
"""What a layer multiplies: numbers of float32 or bfloat16, or codes."""


def float_type(operands: Operands) -> DTypeLike:
  """The type of what is multiplied beside kernels; of int8 it is float32."""
  if isinstance(operands, Sparse):
    return operands.dense
  return jnp.float32 if isinstance(operands, Int8) else operands


class Codes(NamedTuple):
  """A kernel.

  Attributes:
    codes: s8[in, out].
    scale: f32[out], what one more in a code adds to a weight.
    sums: f32[out], the weights of an output, summed over the inputs.
  """

  codes: jax.Array
  scale: jax.Array
  sums: jax.Array


class Limits(NamedTuple):
  """The least and the greatest input that codes stand for, f32[B, 1] each."""

  low: jax.Array
  high: jax.Array


def limits_of(x: jax.Array) -> Limits:
  """The limits of each example of f32[B, in]."""
  return Limits(jnp.min(x, 1, keepdims=True), jnp.max(x, 1, keepdims=True))


def product_of_codes(x: jax.Array, kernel: Codes, limits: Limits) -> jax.Array:
  """The product f32[B, out] of a batch f32[B, in] and a kernel.

  Inputs beyond the limits count as the limits; NaN within an example's own
  limits makes all its products NaN.
  """
  middle = 0.5 * limits.low + 0.5 * limits.high
  step = (limits.high - limits.low) / (2 * GREATEST)
  codes = jnp.round((x - middle) * (1 / jnp.maximum(step, _LEAST_STEP)))
  codes = jnp.clip(codes, -GREATEST, GREATEST).astype(jnp.int8)
  sums = lax.dot_general(
    codes,
    kernel.codes,
    (((1,), (0,)), ((), ())),
    preferred_element_type=jnp.int32,
  )
  scaled = sums.astype(jnp.float32) * (step * kernel.scale[None])
  return scaled + middle * kernel.sums[None]
