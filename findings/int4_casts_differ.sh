#!/usr/bin/env bash
# JAX and ml_dtypes: the same float becomes another int4.
#
# Versions: jax 0.10.2, ml_dtypes 0.6.0, numpy 2.4.6, Python 3.11.
# Seen: of numbers outside of -8 ... 7, astype of a float32 array wraps in NumPy
#   with ml_dtypes' int4 (8 becomes -8) and saturates in JAX (8 becomes 7). In
#   JAX itself int32 wraps where float32 saturates.
# Expected: one result; JAX's int4 is ml_dtypes' int4. Codes of a table that is
#   quantised with one of them and checked with the other differ in sign, and
#   the largest value of a row is often just the one that is out of range.
# What to do: clip to -8 ... 7 before astype.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet \
  jax==0.10.2 jaxlib==0.10.2 ml_dtypes==0.6.0 numpy==2.4.6

JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PY' | tee "$work/seen"
import jax.numpy as jnp
import ml_dtypes
import numpy as np

x = np.array([7, 8, 9, -9, 100], np.float32)
whole = x.astype(np.int32)
print('numpy, float32', x.astype(ml_dtypes.int4).astype(int).tolist())
print('jax, float32  ', jnp.asarray(x).astype(jnp.int4).tolist())
print('jax, int32    ', jnp.asarray(whole).astype(jnp.int4).tolist())
print('one type      ', jnp.int4.dtype == np.dtype(ml_dtypes.int4))
PY

diff "$work/seen" - <<'SEEN'
numpy, float32 [7, -8, -7, 7, 4]
jax, float32   [7, 7, 7, -8, 7]
jax, int32     [7, -8, -7, 7, 4]
one type       True
SEEN
