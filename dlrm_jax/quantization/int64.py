"""Products of matrices of 64-bit integers, modulo 2^64.

Models whose numbers are shared secrets compute so: a number is a sum of shares
modulo 2^64, each held by another party, and real values are fixed-point
integers (Mohassel and Zhang, SecureML, 2017). FBGEMM has it as its `i64` GEMM.

No device multiplies 64 bits in its matrix units. TPUs and GPUs multiply bytes
there: an integer is eight digits of base 256, and of the 64 products of two
digits the 36 count whose weight is below 2^64. CPUs have a kernel in C
(`native.multiply`); without it, they multiply digits, too.

Inside, an integer is two words u32, the low one first, so that JAX needs no
types of 64 bits.
"""

import functools
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dlrm_jax import native
from dlrm_jax.errors import InputError

_DIGITS = 8
_BYTES = 0, 8, 16, 24
"""Places of the bytes of a word."""

BLOCK = 127 * 128
"""Largest K of which sums of products of digits are less than 2^31: a product
is at most 2^14, and products of up to eight pairs of digits are added."""

_Pair = tuple[jax.Array, jax.Array]
"""Integers: their low and their high words, of equal shapes."""


@overload
def int64_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray: ...
@overload
def int64_matmul(a: jax.Array, b: np.ndarray | jax.Array) -> jax.Array: ...
@overload
def int64_matmul(a: np.ndarray, b: jax.Array) -> jax.Array: ...
def int64_matmul(
  a: np.ndarray | jax.Array, b: np.ndarray | jax.Array
) -> np.ndarray | jax.Array:
  """The product of two matrices, exact modulo 2^64 in two's complement.

  Arrays of NumPy are multiplied on JAX's default device. Arrays of JAX have 64
  bits only with `jax_enable_x64`; then this works in `jax.jit`, too.

  Args:
    a: s64[M, K].
    b: s64[K, N].

  Returns:
    s64[M, N]; an array of NumPy where both operands are.

  Raises:
    InputError: an operand is no matrix of int64, or the two do not fit.

  >>> int64_matmul(np.array([[2**62, 3]]), np.array([[4], [-5]])).tolist()
  [[-15]]
  """
  for name, x in (('a', a), ('b', b)):
    _check(name, x)
  if a.shape[1] != b.shape[0]:
    raise InputError(
      f'int64_matmul: a has shape {a.shape} and b {b.shape}; expected [M, K] '
      'and [K, N]'
    )
  words = _product(_words(a), _words(b), by_kernel=native.in_use())
  if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
    return np.array(words).view(np.int64)
  pairs = words.reshape(len(a), b.shape[1], 2)
  return lax.bitcast_convert_type(pairs, jnp.int64)


def _check(name: str, x: object) -> None:
  """Raises an InputError for what is no matrix of int64."""
  if not isinstance(x, np.ndarray | jax.Array):
    raise InputError(
      f'int64_matmul: {name} is a {type(x).__name__}; expected an array of '
      'NumPy or JAX'
    )
  if x.ndim != 2:
    raise InputError(
      f'int64_matmul: {name} has shape {x.shape}; expected a matrix'
    )
  if x.dtype != np.int64:
    raise InputError(
      f'int64_matmul: {name} has dtype {x.dtype}; expected int64, which JAX '
      'has with jax_enable_x64 only, and NumPy always'
    )


def _words(x: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
  """The words of a matrix s64[R, C], u32[R, 2 C]."""
  if isinstance(x, np.ndarray):
    return np.ascontiguousarray(x).view(np.uint32)
  pairs = lax.bitcast_convert_type(x, jnp.uint32)
  return pairs.reshape(x.shape[0], 2 * x.shape[1])


@functools.partial(jax.jit, static_argnames='by_kernel')
def _product(a: jax.Array, b: jax.Array, by_kernel: bool) -> jax.Array:
  """The product u32[M, 2 N] of u32[M, 2 K] and u32[K, 2 N]."""
  if not a.size or not b.size:
    return jnp.zeros((len(a), b.shape[1]), jnp.uint32)
  return lax.platform_dependent(
    a, b, cpu=native.multiply if by_kernel else by_digits, default=by_digits
  )


def by_digits(a: jax.Array, b: jax.Array, block: int = BLOCK) -> jax.Array:
  """The product of matrices of integers, of products s8 x s8 -> s32.

  Digits go from -128 to 127. The products of equal weight, 256^w, are one
  product over K and w + 1 pairs of digits; 36 pairs in all.

  Args:
    a: u32[M, 2 K], words.
    b: u32[K, 2 N], words.
    block: how much of K is multiplied at once, at most `BLOCK`.

  Returns:
    u32[M, 2 N], words.
  """
  left = jnp.stack(_digits(a), 1)  # s8[M, 8, K]
  right = jnp.stack(_digits(b)[::-1])  # s8[8, K, N], the highest digit first
  zeros = jnp.zeros((a.shape[0], b.shape[1] // 2), jnp.uint32)
  total = zeros, zeros
  for start in range(0, b.shape[0], block):
    part = slice(start, start + block)
    sums = zeros, zeros
    for w in reversed(range(_DIGITS)):
      products = lax.dot_general(
        left[:, : w + 1, part],
        right[_DIGITS - 1 - w :, part],
        (((1, 2), (0, 1)), ((), ())),
        preferred_element_type=jnp.int32,
      )
      sums = _add(_times_256(sums), _widened(products))
    total = _add(total, sums)
  return jnp.stack(total, 2).reshape(a.shape[0], b.shape[1])


def _digits(words: jax.Array) -> list[jax.Array]:
  """Eight digits s8[R, C] of u32[R, 2 C], the lowest first.

  With 128 added to each digit, they are the bytes of an integer.
  """
  low, high = words[:, 0::2], words[:, 1::2]
  added = jnp.full_like(low, 0x80808080)
  return [
    ((word >> place & 0xFF).astype(jnp.int32) - 128).astype(jnp.int8)
    for word in _add((low, high), (added, added))
    for place in _BYTES
  ]


def _add(x: _Pair, y: _Pair) -> _Pair:
  low = x[0] + y[0]
  carry = (low < x[0]).astype(jnp.uint32)
  return low, x[1] + y[1] + carry


def _times_256(x: _Pair) -> _Pair:
  low, high = x
  return low << 8, high << 8 | low >> 24


def _widened(x: jax.Array) -> _Pair:
  """Numbers s32 as integers of 64 bits."""
  low, sign = (lax.bitcast_convert_type(y, jnp.uint32) for y in (x, x >> 31))
  return low, sign
