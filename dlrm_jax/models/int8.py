"""Products of inputs and a kernel that are both codes of 8 bits.

A kernel is codes s8[in, out] with a scale for each output; inputs become codes
on a grid, that of the example or of the layer:

    w = scale * c                      c from -127 to 127
    x = middle + step * d              d from -128 to 127
    x w = step * scale * (d c) + middle * (sum of w over the inputs)

So the product d c is one of s8 with sums of s32, whatever the signs of the
inputs; all else is float32, one multiplication and addition for each output.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from dlrm_jax.models.sparse import Sparse

GREATEST = 127
"""The greatest code; the least of a kernel is its negative."""

_LEAST_STEP = float(jnp.finfo(jnp.float32).tiny)
"""Steps of 0, those of equal inputs, are divided by as this."""

_LEAST = -GREATEST - 1  # code of an input

MOST_INPUTS = (2**31 - 1) // (-_LEAST * GREATEST)
"""Most inputs of a kernel whose sums fit s32 for all codes."""


@dataclasses.dataclass(frozen=True)
class Int8:
  """Layers that multiply codes of 8 bits; they score, and are not trained.

  Attributes:
    calibrated: whether the grid of a layer's inputs follows from parameters,
      rather than from the least and the greatest input of each example.
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


class Grid(NamedTuple):
  """The inputs that codes stand for, f32[B, 1] each, or f32[] of a layer.

  Attributes:
    middle: the input of code 0.
    step: what one more in a code adds.
  """

  middle: jax.Array
  step: jax.Array


def grid_of(x: jax.Array) -> Grid:
  """The grid of each example of f32[B, in], from its least to its greatest."""
  low, high = jnp.min(x, 1, keepdims=True), jnp.max(x, 1, keepdims=True)
  return Grid(0.5 * low + 0.5 * high, (high - low) / (2 * GREATEST))


def grid_between(low: jax.Array, high: jax.Array) -> Grid:
  """The grid of a layer whose inputs have limits, f32[] each.

  0 has a code, so zeros of ReLU are exact; it is the `zero_point` that
  QuantizeLinear of ONNX, and integer products of most libraries, take.
  """
  low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
  step = jnp.maximum((high - low) / (GREATEST - _LEAST), _LEAST_STEP)
  zero = jnp.round(_LEAST - low / step)
  return Grid(-zero * step, step)


@functools.partial(jax.jit, inline=False)
def product_of_codes(x: jax.Array, kernel: Codes, grid: Grid) -> jax.Array:
  """The product f32[B, out] of a batch f32[B, in] and a kernel.

  Inputs beyond the grid count as its end. NaN within an example's own grid
  makes all its products NaN; on the grid of a layer it counts as code 0, so
  that whoever scores refuses such inputs before. A function of its own in
  traced programs, so that `dlrm_jax.graph` finds it: ONNX has operators for it.
  """
  middle, step = grid
  codes = jnp.round((x - middle) * (1 / jnp.maximum(step, _LEAST_STEP)))
  codes = jnp.clip(codes, _LEAST, GREATEST).astype(jnp.int8)
  sums = lax.dot_general(
    codes,
    kernel.codes,
    (((1,), (0,)), ((), ())),
    preferred_element_type=jnp.int32,
  )
  scaled = sums.astype(jnp.float32) * (step * kernel.scale[None])
  return scaled + middle * kernel.sums[None]
