#!/usr/bin/env bash
# Orbax: checkpoints in a folder named a[1] cannot be read.
#
# Versions: orbax-checkpoint 0.12.8, jax 0.10.2, Python 3.11.
# Seen: saving into a folder whose path has [1] succeeds and writes all files
#   but the manifest of the arrays, manifest.ocdbt: what processes wrote is
#   found by a glob in which the path of the folder is not escaped. A warning in
#   the log says that there was nothing to merge.
# Expected: the manifest is there, as in any other folder; or an error.
# What to do: refuse folders for checkpoints whose paths have *, ? or [.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2

JAX_PLATFORMS=cpu "$work/venv/bin/python" - "$work" <<'PY' | tee "$work/seen"
import pathlib
import sys

import jax.numpy as jnp
import orbax.checkpoint as ocp

for name in ('a1', 'a[1]'):
  folder = pathlib.Path(sys.argv[1], name, 'saved')
  folder.parent.mkdir()
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder, {'weights': jnp.ones(3)})
  print(f'{name}: manifest {(folder / "manifest.ocdbt").exists()}')
PY

diff "$work/seen" - <<'SEEN'
a1: manifest True
a[1]: manifest False
SEEN
