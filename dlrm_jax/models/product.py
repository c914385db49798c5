"""The product of a layer, whose gradients are fast on every backend.

The operands of all three products of a layer, `y = x w`, `dx = dy w^T` and
`dw = x^T dy`, have the dtype of the layer; sums are float32.

XLA's CPU backend multiplies matrices of bfloat16 only as they lie in memory; of
a transposed operand it makes float32 first, and it folds an ordinary transpose
into the product. So on CPUs these operands are transposed by a copy that XLA
cannot fold. In float32 nothing is gained by that.

CPUs without instructions for bfloat16 multiply the same numbers as float32:
XLA's products of bfloat16 take 1.5 times as long there.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from dlrm_jax import machine

_BLOCK = 8
_BFLOAT16 = frozenset({'avx512_bf16', 'amx_bf16', 'bf16'})
"""Flags of processors, as Linux names them."""


def product(
  x: jax.Array, kernel: jax.Array, dtype: DTypeLike = jnp.float32
) -> jax.Array:
  """The product of a batch and a kernel.

  Args:
    x: f32[B, in].
    kernel: f32[in, out].
    dtype: dtype of the operands, float32 or bfloat16.

  Returns:
    f32[B, out].

  >>> product(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])).tolist()
  [[11.0]]
  """
  if dtype == jnp.bfloat16:
    return _in_bfloat16(x, kernel)
  return _dot(x.astype(dtype), kernel.astype(dtype))


_Operands = tuple[jax.Array, jax.Array]


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.dot(a, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _in_bfloat16(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return _forward(x, kernel)[0]


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, _Operands]:
  operands = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
  on_cpu = _dot if has_bfloat16() else _dot_of_wider
  product = lax.platform_dependent(*operands, cpu=on_cpu, default=_dot)
  return product, operands


def _backward(operands: _Operands, grads: jax.Array) -> _Operands:
  return lax.platform_dependent(
    *operands,
    grads.astype(jnp.bfloat16),
    cpu=_copying if has_bfloat16() else _transposing_wider,
    default=_transposing,
  )


_in_bfloat16.defvjp(_forward, _backward)


def has_bfloat16() -> bool:
  """Whether the processor has instructions for bfloat16, as far as is known."""
  flags = machine.cpu_flags()
  return flags is None or not _BFLOAT16.isdisjoint(flags)


def _dot_of_wider(a: jax.Array, b: jax.Array) -> jax.Array:
  return _dot(a.astype(jnp.float32), b.astype(jnp.float32))


def _transposing_wider(
  x: jax.Array, kernel: jax.Array, grads: jax.Array
) -> _Operands:
  """Gradients of x and of the kernel, by products of float32."""
  return _transposing(
    x.astype(jnp.float32), kernel.astype(jnp.float32), grads.astype(jnp.float32)
  )


def _transposing(
  x: jax.Array, kernel: jax.Array, grads: jax.Array
) -> _Operands:
  """Gradients of x and of the kernel."""
  return _dot(grads, kernel.T), _dot(x.T, grads)


def _copying(x: jax.Array, kernel: jax.Array, grads: jax.Array) -> _Operands:
  """The same, by products of matrices as they lie in memory."""
  if kernel.shape[1] == 1:  # products of vectors, which need no transpose
    wide = grads.astype(jnp.float32)
    return wide * kernel.T.astype(jnp.float32), jnp.sum(
      x.astype(jnp.float32) * wide, 0
    )[:, None]
  return _dot(grads, _transposed(kernel)), _dot(_transposed(x), grads)


def _transposed(a: jax.Array) -> jax.Array:
  """The transpose [n, k] -> [k, n], as a copy, where 8 divides n or k."""
  n, k = a.shape
  if n % _BLOCK == 0:
    copy = a.reshape(n // _BLOCK, _BLOCK, k).transpose(2, 0, 1)
  elif k % _BLOCK == 0:
    copy = a.reshape(n, k // _BLOCK, _BLOCK).transpose(1, 2, 0)
  else:
    return a.T
  return lax.optimization_barrier(copy).reshape(k, n)
