"""A checkpoint does not care on which device it was written."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

SCRIPT = """
import pathlib, sys
import jax
from tests.training.test_checkpoint import make_task
from dlrm_jax.training.checkpoint import Checkpoints
from dlrm_jax.training.state import abstract_state, create_state

folder, device = pathlib.Path(sys.argv[1]), int(sys.argv[2])
with jax.default_device(jax.devices()[device]):
  if device:
    state = create_state(make_task(), jax.random.key(0))
    checkpoints = Checkpoints(folder, make_task().collection.layout, keep=1)
    checkpoints.save(1, state, None)
  else:
    checkpoints = Checkpoints(folder, make_task().collection.layout)
    state = checkpoints.restore(1, abstract_state(make_task()))
  checkpoints.close()
print(float(state.tables['rows_4'].sum()), state.step.devices())
"""


def run(folder, device, devices):
  flags = f'--xla_force_host_platform_device_count={devices}'
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT, str(folder), str(device)],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.split(' ', 1)


def test_written_on_one_device_it_is_read_on_another(tmp_path):
  written, there = run(tmp_path, 3, 4)
  read, here = run(tmp_path, 0, 1)
  assert there != here
  assert read == written
