"""Peak memory of a training run beyond what it must hold.

python -m benchmarks.memory

The Kaggle shape, batch 2048: steps, an evaluation, a checkpoint, the report.
Of the most memory that the process had resident, the tables, the layers, the
optimizer's state and one batch are taken away.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

from benchmarks import machine, our_run, peers
from benchmarks.our_step import task_of
from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.training.state import abstract_state

_BATCH, _STEPS = 2048, 60
_KINDS = {
  'SGD': ('float32', 'sgd'),
  'row-wise Adagrad': ('rowwise', 'rowwise_adagrad'),
}


def peak(command: list[str]) -> int:
  """Bytes that a command's process had resident at most.

  Raises:
    SystemExit: it failed.
  """
  process = subprocess.Popen(
    command,
    cwd=our_run.ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode:
    sys.exit(f'{" ".join(command)}: status {process.returncode}')
  # Kilobytes; on macOS bytes.
  return usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def held(kind: str, batch: int) -> int:
  """Bytes of the state of the Kaggle shape, and of a batch.

  Args:
    kind: as `our_step.task_of` takes it.
    batch: B.
  """
  task = task_of(batch, kind)
  one = jax.eval_shape(
    lambda: Batch(
      Inputs(
        jax.numpy.zeros((batch, task.network.dense_features)),
        jax.numpy.zeros((batch, task.network.ids), jax.numpy.int32),
      ),
      jax.numpy.zeros((batch, 1)),
      jax.numpy.zeros(batch),
    )
  )
  leaves = jax.tree.leaves((abstract_state(task), one))
  return sum(x.size * x.dtype.itemsize for x in leaves)


def main() -> None:
  """Trains with either optimizer and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.parse_args()
  rows = []
  for words, (kind, name) in _KINDS.items():
    flag = f'--config.table_optimizer.name={name}'
    with tempfile.TemporaryDirectory() as folder:
      run = our_run.command(Path(folder) / 'run', _STEPS, _BATCH, flag)
      most = peak(run) / 1e6
    state = held(kind, _BATCH) / 1e6
    what = f'peak memory beyond state and batch, {words}, batch {_BATCH}'
    parts = {'peak, MB': most, 'state and batch, MB': state}
    rows.append(peers.row(what, 'MB', {peers.OURS: most - state, **parts}))
  machine.show('memory', rows)


if __name__ == '__main__':
  main()
