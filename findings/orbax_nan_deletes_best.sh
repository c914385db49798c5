#!/usr/bin/env bash
# Orbax: one NaN metric, and the manager deletes the best checkpoint.
#
# Versions: orbax-checkpoint 0.12.8, jax 0.10.2, Python 3.11.
# Seen: a CheckpointManager with best_fn, best_mode='max' and max_to_keep=1.
#   After metrics .8, NaN, .5 the checkpoint that is left has .5; the one with
#   .8 is deleted as soon as the NaN comes, and the NaN is called the best.
# Expected: a number that compares with nothing is not better than .8. An AUC
#   is NaN whenever a validation set has one class only.
# What to do: give the manager a finite metric, such as -inf for NaN.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2

JAX_PLATFORMS=cpu "$work/venv/bin/python" - "$work/saved" <<'PY' | tee "$work/seen"
import sys

import numpy as np
import orbax.checkpoint as ocp

options = ocp.CheckpointManagerOptions(
  max_to_keep=1, best_fn=lambda metrics: metrics['auc'], best_mode='max'
)
with ocp.CheckpointManager(sys.argv[1], options=options) as manager:
  for step, auc in enumerate([0.8, float('nan'), 0.5], start=1):
    state = {'weights': np.full(3, step)}
    saved = ocp.args.StandardSave(state)
    manager.save(step, args=saved, metrics={'auc': auc})
    manager.wait_until_finished()
    print(f'auc {auc}: kept {manager.all_steps()}, best {manager.best_step()}')
PY

diff "$work/seen" - <<'SEEN'
auc 0.8: kept [1], best 1
auc nan: kept [2], best 2
auc 0.5: kept [3], best 3
SEEN
