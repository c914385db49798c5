"""Storages of fewer bits: float16, bfloat16, and codes of 8, 4 or 2 bits.

`float16` and `bfloat16` keep the bits of values, u16[R, D]. (Of an array of
bfloat16, XLA's CPU backend makes float32 before it gathers rows.)

`int8`, `int4` and `int2` keep codes, u8[R, D * bits / 8], and a line for each
row: its scale and bias. A code stands for code * scale + bias. The bias is the
least value of the row, and the scale its range divided by the greatest code,
as in FBGEMM: without noise, codes and lines have the bits that
`quantization.fbgemm` has in its layout `fused`. So lines are float32 with 8
bits, else float16, and values that share a byte begin in its lowest bits.

With noise, values are rounded up with the probability of what is cut off, so
that small steps of an update are not lost but right on average; for that, a
bias of float16 is rounded down, and a scale up. Source: Gupta and others, "Deep
Learning with Limited Numerical Precision", 2015.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dlrm_jax.embedding.storage import FLOAT32, Storage
from dlrm_jax.errors import InputError
from dlrm_jax.rows import Pytree

_LEAST_NORMAL = 2.0**-14  # of float16; below it, values are multiples of
_LEAST = 2.0**-24
_MOST = 65504.0
_SPARE = 1e-8  # FBGEMM adds it to a range, so that constant rows divide by it


def _bits(values: jax.Array, dtype: Any) -> jax.Array:
  return lax.bitcast_convert_type(jnp.asarray(values), dtype)


def _uniform(noise: jax.Array) -> jax.Array:
  """Random bits u32 as numbers in [0, 1), f32."""
  return (noise >> 8).astype(jnp.float32) * 2.0**-24


@dataclasses.dataclass(frozen=True)
class BFloat16(Storage):
  """The upper half of a float32."""

  random = True

  @property
  def name(self) -> str:
    """The name."""
    return 'bfloat16'

  def leaves(self, dim: int) -> Pytree:
    """One array, of bits."""
    return jax.ShapeDtypeStruct((dim,), jnp.uint16)

  def decode(self, rows: Pytree, dim: int) -> jax.Array:
    """The values; exact."""
    del dim
    return _bits(jnp.asarray(rows).astype(jnp.uint32) << 16, jnp.float32)

  def encode(self, values: jax.Array, noise: jax.Array | None) -> Pytree:
    """Rounds to nearest even, or at random."""
    if noise is None:
      return _bits(jnp.asarray(values).astype(jnp.bfloat16), jnp.uint16)
    carried = _bits(values, jnp.uint32) + (noise & 0xFFFF)
    return (carried >> 16).astype(jnp.uint16)


@dataclasses.dataclass(frozen=True)
class Float16(Storage):
  """IEEE's half precision; larger magnitudes than 65504 become that."""

  random = True
  most = _MOST

  @property
  def name(self) -> str:
    """The name."""
    return 'float16'

  def leaves(self, dim: int) -> Pytree:
    """One array, of bits."""
    return jax.ShapeDtypeStruct((dim,), jnp.uint16)

  def decode(self, rows: Pytree, dim: int) -> jax.Array:
    """The values; exact."""
    del dim
    return _bits(rows, jnp.float16).astype(jnp.float32)

  def encode(self, values: jax.Array, noise: jax.Array | None) -> Pytree:
    """Rounds to nearest even, or at random."""
    values = jnp.clip(jnp.asarray(values), -_MOST, _MOST)
    if noise is not None:
      carried = _bits(values, jnp.uint32) + (noise & 0x1FFF)
      normal = _bits(carried & jnp.uint32(0xFFFFE000), jnp.float32)
      small = jnp.floor(values / _LEAST + _uniform(noise)) * _LEAST
      values = jnp.where(jnp.abs(values) < _LEAST_NORMAL, small, normal)
      values = jnp.clip(values, -_MOST, _MOST)
    return _bits(values.astype(jnp.float16), jnp.uint16)


@dataclasses.dataclass(frozen=True)
class Codes(Storage):
  """Codes of a few bits, and a scale and a bias for each row.

  Attributes:
    bits: of a code: 8, 4 or 2.
  """

  bits: int

  random = True

  @property
  def name(self) -> str:
    """The name, such as int8."""
    return f'int{self.bits}'

  @property
  def unit(self) -> int:
    """Number of values that share a byte."""
    return 8 // self.bits

  def leaves(self, dim: int) -> Pytree:
    """Codes; and lines: f32[2], or the bits of two numbers of float16.

    Raises:
      InputError: codes do not fill whole bytes.
    """
    if dim % self.unit:
      raise InputError(
        f'a table of width {dim} cannot be kept as {self.name}: expected a '
        f'multiple of {self.unit}, so that rows fill whole bytes; change its '
        f'width, or config.tables.storage'
      )
    line = jnp.float32 if self.bits == 8 else jnp.uint16
    return {
      'codes': jax.ShapeDtypeStruct((dim // self.unit,), jnp.uint8),
      'line': jax.ShapeDtypeStruct((2,), line),
    }

  def decode(self, rows: Pytree, dim: int) -> jax.Array:
    """Code * scale + bias."""
    codes = _apart(jnp.asarray(rows['codes']), self.bits, dim)
    line = jnp.asarray(rows['line'])
    if self.bits < 8:
      line = _bits(line, jnp.float16).astype(jnp.float32)
    return codes.astype(jnp.float32) * line[..., :1] + line[..., 1:]

  def encode(self, values: jax.Array, noise: jax.Array | None) -> Pytree:
    """Rounds to nearest even, or at random."""
    values = jnp.asarray(values)
    bias = jnp.min(values, -1, keepdims=True)
    most = jnp.max(values, -1, keepdims=True)
    # In the place of a division by one number, XLA multiplies with its inverse.
    greatest = 2**self.bits - 1
    top = lax.optimization_barrier(jnp.full_like(most, greatest))
    if self.bits == 8:
      scale = (most - bias) / top
      inverse = top / (most - bias + _SPARE)
    else:
      # With noise, codes reach from the least to the greatest value at least.
      bias = _as_half(bias, None if noise is None else -jnp.inf)
      scale = (most - bias) / top
      scale = _as_half(scale, None if noise is None else jnp.inf)
      scale = jnp.where(scale == 0, 1.0, scale)
      inverse = 1 / scale
    if noise is None:
      codes = jnp.rint((values - bias) * inverse)
    else:
      exact = jnp.where(scale == 0, 0.0, 1 / jnp.where(scale == 0, 1.0, scale))
      codes = jnp.floor((values - bias) * exact + _uniform(noise))
    line = jnp.concatenate([scale, bias], -1)
    if self.bits < 8:
      line = _bits(line.astype(jnp.float16), jnp.uint16)
    codes = jnp.clip(codes, 0, greatest).astype(jnp.uint8)
    return {'codes': _together(codes, self.bits), 'line': line}


def _as_half(values: jax.Array, toward: float | None) -> jax.Array:
  """Float32 numbers that float16 has, too.

  Args:
    values: f32[...].
    toward: infinity of the sign in whose direction they are rounded, but for
      errors of float32; None: they are rounded to nearest.
  """
  halves = lax.optimization_barrier(values.astype(jnp.float16))
  if toward is not None:
    error = values - halves.astype(jnp.float32)
    short = error * np.sign(toward) > 2.0**-21 * jnp.abs(values)
    further = jnp.nextafter(halves, jnp.full_like(halves, toward))
    halves = lax.optimization_barrier(jnp.where(short, further, halves))
  return halves.astype(jnp.float32)


def _apart(codes: jax.Array, bits: int, dim: int) -> jax.Array:
  """Bytes u8[..., D * bits / 8] to codes u8[..., D]."""
  if bits == 8:
    return codes
  shifts = jnp.arange(0, 8, bits, dtype=jnp.uint8)
  mask = jnp.uint8(2**bits - 1)
  apart = (codes[..., None] >> shifts[(None,) * codes.ndim]) & mask
  return apart.reshape(*codes.shape[:-1], dim)


def _together(codes: jax.Array, bits: int) -> jax.Array:
  """Codes u8[..., D] to bytes u8[..., D * bits / 8]."""
  unit = 8 // bits
  parts = [codes[..., i::unit] << (i * bits) for i in range(unit)]
  return functools.reduce(jnp.bitwise_or, parts)


FLOAT16, BFLOAT16 = Float16(), BFloat16()
INT8, INT4, INT2 = Codes(8), Codes(4), Codes(2)

STORAGES = {
  storage.name: storage
  for storage in (FLOAT32, FLOAT16, BFLOAT16, INT8, INT4, INT2)
}
"""All storages by name."""

STATES = {storage.name: storage for storage in (FLOAT32, BFLOAT16)}
"""Those of optimizers' states: with the range of float32, as squares of
gradients need it, and number by number, as there can be one a row."""


def storage_named(name: str) -> Storage:
  """The storage of a name.

  Raises:
    InputError: there is none.
  """
  if name not in STORAGES:
    raise InputError(
      f'rows are kept as {name}; expected one of {", ".join(STORAGES)}'
    )
  return STORAGES[name]
