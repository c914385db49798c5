#!/usr/bin/env bash
# jax2onnx: installing it beside Orbax replaces Orbax by an earlier version,
# which a conversion does not even import.
#
# Versions: jax2onnx 0.17.1, orbax-checkpoint 0.12.8, Python 3.11.
# Seen: jax2onnx requires orbax-checkpoint below 0.11.37, so `pip install` takes
#   an installed 0.12.8 away and puts 0.11.36 in its place, with no more than a
#   line among others. Installed without its requirements, it converts a function
#   and no module of Orbax is imported (it logs the plugins that it leaves out).
# Expected: a requirement only of what uses it, such as an extra for examples.
# What to do: pip install --no-deps jax2onnx, beside onnx, onnx-ir and
#   onnxruntime, where checkpoints are written by a later Orbax.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
pip() { "$work/venv/bin/pip" --quiet "$@"; }
version() {
  "$work/venv/bin/python" -c \
    'import importlib.metadata as m; print(m.version("orbax-checkpoint"))'
}
pip install orbax-checkpoint==0.12.8 flax==0.12.8 jax==0.10.2

{
  version
  pip install --no-deps jax2onnx==0.17.1
  pip install onnx==1.23.2 onnx-ir==1.1.0 onnxruntime==1.32.0
  version
  JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PY'
import sys

import jax.numpy as jnp
from jax2onnx import to_onnx

model = to_onnx(lambda x: jnp.tanh(x) + 1, [(2, 3)])
print([node.op_type for node in model.graph.node])
print('orbax' in sys.modules)
PY
  pip install jax2onnx==0.17.1
  version
} 2>/dev/null | tee "$work/seen"

diff "$work/seen" - <<'SEEN'
0.12.8
0.12.8
['Tanh', 'Add']
False
0.11.36
SEEN
