"""From a raw log to test metrics, cold, beside facebookresearch/dlrm's job.

python -m benchmarks.training --input=train.txt [--peer_python= --dlrm=PATH]

Seconds of commands, from their start to their end, in empty folders. Ours:
prepare, then train one epoch with the Kaggle config, evaluate, and report;
without kept programs, and with those of a run before.
Theirs: `dlrm_s_pytorch.py` with the settings of its script for Kaggle, which
preprocesses the log, trains one epoch, and evaluates at its end. That script's
batch size is 128; it is timed with ours, too.
"""

import argparse
import os
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


def timed(
  commands: Sequence[Sequence[str]], folder: Path, **variables: str
) -> float:
  """Seconds of commands, one after the other, run in a folder.

  Args:
    commands: their words.
    folder: where they run.
    **variables: of their environment, beside those of this process.

  Raises:
    SystemExit: one failed; with what it said last.
  """
  start = time.perf_counter()
  for command in commands:
    ended = subprocess.run(
      command,
      cwd=folder,
      env=os.environ | variables,
      capture_output=True,
      text=True,
      check=False,
    )
    if ended.returncode:
      said = (ended.stderr or ended.stdout)[-1000:]
      sys.exit(f'{" ".join(command)}: status {ended.returncode}\n{said}')
  return time.perf_counter() - start


def ours(log: Path, batch: int, cache: str = '') -> float:
  """Seconds of prepare and train.

  Args:
    log: in Criteo's format.
    batch: B.
    cache: folder of kept programs; '': none are kept.
  """
  kept = {'JAX_ENABLE_COMPILATION_CACHE': '0'}
  if cache:
    kept = {'XDG_CACHE_HOME': cache}
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
    return timed([prepare, train], ROOT, **kept)


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
  again = []
  with tempfile.TemporaryDirectory() as cache:
    ours(log, LARGE, cache)
    for _ in range(arguments.rounds):
      again.append(ours(log, LARGE, cache))
      for batch in mine:
        mine[batch].append(ours(log, batch))
        if found.dlrm:
          peer[batch].append(theirs(found, log, batch))
  compared = [
    (f'batch {LARGE} (peer: {SCRIPT})', mine[LARGE], SCRIPT),
    (f'both {LARGE}', mine[LARGE], LARGE),
    (f'both {LARGE}, with kept programs', again, LARGE),
    (f'both {SCRIPT}', mine[SCRIPT], SCRIPT),
  ]
  rows = []
  for what, seconds, other in compared:
    values = {peers.OURS: median(seconds)}
    if found.dlrm:
      values[peers.DLRM] = median(peer[other])
    what = f'from raw log to test metrics, {what}'
    rows.append(peers.row(what, 's', values))
  machine.show('training', rows)


if __name__ == '__main__':
  main()
