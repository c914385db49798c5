"""From a raw log to test metrics, cold, beside facebookresearch/dlrm's job.

python -m benchmarks.training --input=train.txt [--peer_python= --dlrm=PATH]

Seconds of commands, from their start to their end, in empty folders. Ours:
prepare, then train one epoch with the Kaggle config, evaluate, and report.
Theirs: `dlrm_s_pytorch.py` with the settings of its script for Kaggle, which
preprocesses the log, trains one epoch, and evaluates at its end. That script's
batch size is 128; it is timed with ours, too.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks import kaggle, machine, peers

ROOT = Path(__file__).resolve().parent.parent
SCRIPT, LARGE = 128, 2048
"""Examples of a batch: of the script for Kaggle, and of a larger one."""

_TARGET = 10.0


def timed(commands: Sequence[Sequence[str]], folder: Path) -> float:
  """Seconds of commands, one after the other, run in a folder.

  Raises:
    SystemExit: one failed; with what it said last.
  """
  start = time.perf_counter()
  for command in commands:
    ended = subprocess.run(
      command, cwd=folder, capture_output=True, text=True, check=False
    )
    if ended.returncode:
      said = (ended.stderr or ended.stdout)[-1000:]
      sys.exit(f'{" ".join(command)}: status {ended.returncode}\n{said}')
  return time.perf_counter() - start


def ours(log: Path, batch: int) -> float:
  """Seconds of prepare and train.

  Args:
    log: in Criteo's format.
    batch: B.
  """
  with tempfile.TemporaryDirectory() as name:
    data = Path(name) / 'data'
    prepare = [
      *(sys.executable, '-m', 'dlrm_jax.prepare', 'criteo'),
      *(f'--input={log}', f'--output={data}'),
    ]
    train = [
      *(sys.executable, 'train.py', '--config=configs/criteo_kaggle.py'),
      *(f'--config.data.dir={data}', f'--config.train.batch_size={batch}'),
      f'--workdir={Path(name) / "run"}',
    ]
    return timed([prepare, train], ROOT)


def theirs(found: peers.Peers, log: Path, batch: int) -> float:
  """Seconds of the main job of facebookresearch/dlrm.

  Args:
    found: where it is.
    log: in Criteo's format.
    batch: B.
  """
  with tempfile.TemporaryDirectory() as name:
    # It writes beside the log, under this name.
    copy = shutil.copy(log, Path(name) / 'train.txt')
    processed = Path(name) / 'kaggleAdDisplayChallenge_processed.npz'
    job = [
      *(found.python, f'{found.dlrm}/dlrm_s_pytorch.py'),
      f'--arch-sparse-feature-size={kaggle.DIM}',
      f'--arch-mlp-bot={_layers(kaggle.DENSE, *kaggle.BOTTOM)}',
      f'--arch-mlp-top={_layers(*kaggle.TOP)}',
      *('--data-generation=dataset', '--data-set=kaggle'),
      *(f'--raw-data-file={copy}', f'--processed-data-file={processed}'),
      *('--loss-function=bce', '--round-targets=True'),
      *(f'--learning-rate={kaggle.RATE}', f'--mini-batch-size={batch}'),
      *('--test-mini-batch-size=16384', '--print-freq=1024', '--print-time'),
      # Without, it fails with NumPy 2.
      '--max-ind-range=10000000',
      # One test, after the last step.
      '--test-freq=1000000000',
    ]
    return timed([job], Path(name))


def _layers(*widths: int) -> str:
  return '-'.join(map(str, widths))


def main() -> None:
  """Times all of it and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  peers.add_flags(parser, rounds=1)
  parser.add_argument('--input', required=True, type=Path, help='a raw log')
  arguments = parser.parse_args()
  if not arguments.input.is_file():
    parser.error(f'--input={arguments.input}: no such file')
  log, found = arguments.input.absolute(), peers.find(arguments)
  mine: dict[int, list[float]] = {LARGE: [], SCRIPT: []}
  peer: dict[int, list[float]] = {LARGE: [], SCRIPT: []}
  for _ in range(arguments.rounds):
    for batch in mine:
      mine[batch].append(ours(log, batch))
      if found.dlrm:
        peer[batch].append(theirs(found, log, batch))
  pairs = [(LARGE, SCRIPT, _TARGET), (SCRIPT, SCRIPT, None)]
  if found.dlrm:
    pairs.insert(1, (LARGE, LARGE, None))
  rows = []
  for batch, other, target in pairs:
    values = {peers.OURS: median(mine[batch])}
    if found.dlrm:
      values[peers.DLRM] = median(peer[other])
    what = f'from raw log to test metrics, batch {batch} (peer: {other})'
    rows.append(peers.row(what, 's', values, target, less_is_better=True))
  machine.show('training', rows)


if __name__ == '__main__':
  main()
