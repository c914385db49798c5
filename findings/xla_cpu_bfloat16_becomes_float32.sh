#!/usr/bin/env bash
# JAX on CPUs: a bfloat16 product is computed in float32 as soon as one operand is
# transposed, so that both products of a layer's gradient are.
#
# Versions: jax 0.10.2, jaxlib 0.10.2, Python 3.11; an x86-64 CPU that has
#   instructions for bfloat16 (AVX512-BF16).
# Seen: of y = x @ w in bfloat16, with a float32 result, the compiled program
#   multiplies bfloat16 matrices. Of its gradients, dy @ w.T and x.T @ dy, it
#   multiplies float32 matrices, which it makes of the bfloat16 ones first; nothing
#   says so. lax.optimization_barrier around the transpose changes nothing, since
#   the transpose becomes a layout. A copy that goes through a reshape helps: then
#   all products are of bfloat16 matrices.
# Expected: products in the dtype that was asked for, forward and backward. A layer
#   trained in bfloat16 gains a third of what it could.
# What to do: a custom_vjp whose operands are transposed by such a copy.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2

cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PY' | tee "$work/seen"
import re

import jax
import jax.numpy as jnp
from jax import lax


def dot(a, b):
  return jnp.dot(a, b, preferred_element_type=jnp.float32)


def barrier(a):
  return lax.optimization_barrier(a.T)


def reshaped(a):
  n, k = a.shape
  copy = a.reshape(n // 8, 8, k).transpose(2, 0, 1)
  return lax.optimization_barrier(copy).reshape(k, n)


def operands(function, *shapes):
  """Types of the operands of the products in the compiled program."""
  given = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
  text = jax.jit(function).lower(*given).compile().as_text()
  types = dict(re.findall(r'%?([\w.-]+)(?: =|:) (\w+)\[', text))
  (names,) = re.findall(r' dot\((.*?)\), ', text)
  return '*'.join(types[name] for name in re.findall(r'%([\w.-]+)', names))


x, w, dy = (1024, 512), (512, 256), (1024, 256)
print('x @ w', operands(dot, x, w))
print('dy @ w.T', operands(lambda dy, w: dot(dy, w.T), dy, w))
print('x.T @ dy', operands(lambda x, dy: dot(x.T, dy), x, dy))
print('barrier', operands(lambda x, dy: dot(barrier(x), dy), x, dy))
print('reshaped', operands(lambda x, dy: dot(reshaped(x), dy), x, dy))
PY

diff "$work/seen" - <<'SEEN'
x @ w bf16*bf16
dy @ w.T f32*f32
x.T @ dy f32*f32
barrier f32*f32
reshaped bf16*bf16
SEEN
