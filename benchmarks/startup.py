"""Seconds from the start of `train.py` to its first logged step.

python -m benchmarks.startup

The Kaggle shape, batch 2048: imports, tables made, programs compiled, one
step; once without kept programs, and once with those of a run before.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from benchmarks import machine, our_run, peers

_BATCH = 2048
_ELSEWHERE = 'JAX_COMPILATION_CACHE_DIR'


def seconds(environment: Mapping[str, str]) -> float:
  """From the start of a run, which is then ended, to its first logged step.

  Args:
    environment: of the process.

  Raises:
    SystemExit: it ended before.
  """
  with tempfile.TemporaryDirectory() as name:
    log = Path(name) / 'run' / 'metrics.jsonl'
    start = time.perf_counter()
    process = subprocess.Popen(
      our_run.command(log.parent, 1000, _BATCH),
      cwd=our_run.ROOT,
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    try:
      while not (log.exists() and log.stat().st_size):
        if process.poll() is not None:
          sys.exit(f'train.py ended with status {process.returncode}')
        time.sleep(0.005)
      return time.perf_counter() - start
    finally:
      process.kill()
      process.wait()


def main() -> None:
  """Starts it several times and prints medians."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=3, help='starts of each')
  rounds = range(parser.parse_args().rounds)
  plain = {k: v for k, v in os.environ.items() if k != _ELSEWHERE}
  cold = plain | {'JAX_ENABLE_COMPILATION_CACHE': '0'}
  with tempfile.TemporaryDirectory() as cache:
    cached = plain | {'XDG_CACHE_HOME': cache}
    seconds(cached)
    found = [(seconds(cold), seconds(cached)) for _ in rounds]
  rows = [
    peers.row(what, 's', {peers.OURS: median(times)})
    for what, times in zip(
      ('start to first step, cold', 'start to first step, kept programs'),
      zip(*found, strict=True),
      strict=True,
    )
  ]
  machine.show('startup', rows)


if __name__ == '__main__':
  main()
