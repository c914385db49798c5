#!/usr/bin/env bash
# JAX on CPUs: arrays divided by one number are multiplied with its rounded inverse.
#
# Versions: jax 0.10.2, jaxlib 0.10.2, Python 3.11.
# Seen: `x / 255` of a float32 array differs from the quotient of IEEE 754, which
#   NumPy gives, in the last bit of three elements in four; eager and compiled, also
#   where the divisor is an argument. By an array of the same number all quotients
#   are right. Codes of 8 bits whose scale is range / 255 so get other bits than
#   those of other programs.
# Expected: a division that rounds once, as no option for fast math is set.
# What to do: divide by an array that XLA cannot see to be one number
#   (`lax.optimization_barrier(jnp.full_like(x, 255))`), or multiply knowingly.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2

cd "$work"
cat > divide.py <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

x = np.random.default_rng(0).random(100_000, np.float32)
want = x / np.float32(255)


def differ(name, got):
  share = np.mean(np.asarray(got) != want)
  print(f'{name}: {"none" if share == 0 else "three in four" if 0.7 < share < 0.8 else share}')


differ('eager', jnp.array(x) / 255)
differ('compiled', jax.jit(lambda x: x / 255)(x))
differ('argument', jax.jit(lambda x, y: x / y)(x, np.float32(255)))
array = lambda x: x / lax.optimization_barrier(jnp.full_like(x, 255))
differ('array', jax.jit(array)(x))
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" divide.py | tee "$work/seen"

diff "$work/seen" - <<'SEEN'
eager: three in four
compiled: three in four
argument: three in four
array: none
SEEN
