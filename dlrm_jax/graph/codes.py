"""Products of codes of 8 bits in the forms that onnxruntime runs fast.

With one grid for all examples, inputs and kernel are QuantizeLinear and
DequantizeLinear around a float product: onnxruntime makes one operator of
these, the bias, ReLU and the codes of the next layer. With a grid for each
example, it is MatMulInteger, and all else is several passes over memory.

Codes of inputs are u8, 128 greater than those of `models/int8.py`: with s8
onnxruntime is several times as slow.
"""

from typing import NamedTuple

import numpy as np

from dlrm_jax.graph.builder import Array, Builder, Lazy, Shape, Tensor
from dlrm_jax.graph.columns import Columns

_ZERO = 128
_FINE = 1 << 20
_MOST = 1 << 30
"""Most of a product, and of a bias in its units: their sums fit 32 bits."""


class Kernel(NamedTuple):
  """A kernel, as `dlrm_jax.models.int8.Codes` in NumPy."""

  codes: np.ndarray
  scale: np.ndarray
  sums: np.ndarray


class CodedProduct(Lazy):
  """The product of a batch, on one grid, and a kernel; made with its bias."""

  def __init__(
    self,
    x: Array,
    kernel: Kernel,
    grid: tuple[np.ndarray, np.ndarray],
    shape: Shape,
  ) -> None:
    """Notes what is multiplied.

    Args:
      x: f32[B, in].
      kernel: the kernel.
      grid: middle and step of the inputs, f32[] each.
      shape: of the product.
    """
    self.x, self.kernel, self.grid, self.shape = x, kernel, grid, shape

  def made(self, builder: Builder) -> Tensor:
    """Adds the product alone."""
    return self.plus(builder, np.zeros(self.shape[-1], np.float32))

  def plus(self, builder: Builder, bias: np.ndarray) -> Tensor:
    """Adds the product and a bias f32[out]."""
    step = self.grid[1]
    # An output whose codes are all 0 takes any scale: one that suits its bias.
    fine = np.where(bias, np.abs(bias) / (step * _FINE), 1).astype(np.float32)
    scale = np.where(self.kernel.codes.any(0), self.kernel.scale, fine)
    unit = step * scale
    steps = np.rint(bias / unit.astype(np.float64))
    if np.abs(steps).max(initial=0) > _MOST:
      alone = explicit(builder, self.x, self.kernel, *self.grid, self.shape)
      return builder.node('Add', alone, bias[None], shape=self.shape)
    codes = builder.node(
      'DequantizeLinear', steps.astype(np.int32), unit, axis=0
    )
    operands = self._operands(builder, scale)
    made = builder.node('Gemm', *operands, codes, shape=self.shape)
    return CodedSum(*made)

  def _operands(
    self, builder: Builder, scale: np.ndarray
  ) -> tuple[Tensor, Tensor]:
    """Inputs and kernel, back from codes."""
    x, codes, (middle, step) = self.x, self.kernel.codes, self.grid
    whole = x.whole(builder) if isinstance(x, Columns) else None
    if whole and builder.place(codes) is None:
      x, rows = whole.matrix, np.zeros((whole.matrix.shape[1], len(scale)))
      rows[whole.columns] = codes
      codes = rows.astype(np.int8)
    zero = np.array(_ZERO + round(float(-middle / step)), np.uint8)
    if isinstance(x, Rectified) and zero == 0:
      x = builder.node('Relu', x.sum)
    coded = builder.node('QuantizeLinear', x, step, zero, shape=x.shape)
    back = builder.node('DequantizeLinear', coded, step, zero, shape=x.shape)
    stored, zero = _stored(builder, codes)
    zeros = np.full(len(scale), zero)
    kernel = builder.node(
      'DequantizeLinear', stored, scale, zeros, axis=1, shape=codes.shape
    )
    return back, kernel


class CodedSum(Tensor):
  """A product of codes and its bias."""


class Rectified(Lazy):
  """ReLU of a product of codes and its bias.

  As Relu it becomes part of the product, if the next thing is codes whose least
  stands for 0; else onnxruntime would multiply floats for it.
  """

  def __init__(self, coded: CodedSum) -> None:
    """Notes the sum."""
    self.sum, self.shape = coded, coded.shape

  def made(self, builder: Builder) -> Tensor:
    """Adds Max."""
    return builder.node('Max', self.sum, np.array(0, np.float32))


def _stored(builder: Builder, codes: np.ndarray) -> tuple[Array, np.generic]:
  """The codes of a kernel as the CPU multiplies them, and that of 0."""
  if builder.signed:
    return codes, np.int8(0)
  if builder.place(codes) is None:
    return (codes.astype(np.int16) + _ZERO).astype(np.uint8), np.uint8(_ZERO)
  wide = builder.cast(builder.tensor(codes), np.int32)
  more = builder.node('Add', wide, np.array(_ZERO, np.int32))
  return builder.cast(more, np.uint8), np.uint8(_ZERO)


def explicit(
  builder: Builder,
  x: Array,
  kernel: Kernel,
  middle: Array,
  step: Array,
  shape: Shape,
) -> Tensor:
  """The same product, with the grid as arrays: f32[] or f32[B, 1] each."""
  least = np.array(np.finfo(np.float32).tiny)
  one, zero = np.array(1, np.float32), np.array(_ZERO, np.uint8)
  moved = builder.node('Sub', x, middle, shape=x.shape)
  divisor = builder.node('Max', step, least)
  divided = builder.node('Div', moved, divisor, shape=x.shape)
  coded = builder.node('QuantizeLinear', divided, one, zero, shape=x.shape)
  stored, none = _stored(builder, kernel.codes)
  sums = builder.node(
    'MatMulInteger', coded, stored, zero, np.asarray(none), shape=shape
  )
  scaled = builder.node('Mul', builder.cast(sums, np.float32), kernel.scale)
  scaled = builder.node('Mul', scaled, step)
  constant = builder.node('Mul', middle, kernel.sums[None])
  return builder.node('Add', scaled, constant, shape=shape)


def product_of_codes(
  builder: Builder, inputs: list[Array], shape: Shape
) -> Array:
  """The rule of `dlrm_jax.models.int8.product_of_codes`.

  Args:
    builder: the builder.
    inputs: x, the arrays of the kernel, which are constants, and the grid.
    shape: of the product.
  """
  x, codes, scale, sums, middle, step = inputs
  kernel = Kernel(*(np.asarray(a) for a in (codes, scale, sums)))
  constant = isinstance(middle, np.ndarray) and isinstance(step, np.ndarray)
  if constant and len(kernel.codes) * 255 * 127 <= _MOST:
    return CodedProduct(x, kernel, (middle, step), shape)
  return explicit(builder, x, kernel, middle, step, shape)
