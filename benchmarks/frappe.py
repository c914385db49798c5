"""An epoch of Frappe with its validation, beside FuxiCTR's.

python -m benchmarks.frappe --train=train.csv --validation=valid.csv
  [--peer_python=PYTHON]

The DLRM of BARS: D = 10, layers 400-400-400 with batch normalisation and
dropout, an L2 penalty of the tables, Adam, batch 4,096, float32. Both read
their batches, train, validate, and save. `--peer_python` has FuxiCTR from the
registry: `pip install fuxictr==2.3.10 'polars<1'`.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import machine, peers
from benchmarks.contest import medians

FUXICTR = 'FuxiCTR'
_TARGET = 3.5


def measure(
  train: str, validation: str, peer_python: str, rounds: int
) -> dict[str, dict[str, float]]:
  """Seconds of an epoch, and the AUC after it, by contender.

  Args:
    train: CSV of Frappe_x1.
    validation: the same.
    peer_python: that has FuxiCTR, or ''.
    rounds: measurements of each.
  """
  with tempfile.TemporaryDirectory() as name:
    data = Path(name) / 'frappe'
    prepare = [
      *(sys.executable, '-m', 'dlrm_jax.prepare', 'raw'),
      *('--config=configs/frappe.py', f'--input={train}'),
      *(f'--validation_input={validation}', f'--output={data}'),
    ]
    subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
    ours = [sys.executable, '-m', 'benchmarks.our_epoch', f'--data={data}']
    commands = {peers.OURS: [*ours, '--variant=dlrm']}
    if peer_python:
      theirs = [peer_python, '-m', 'benchmarks.peer_epoch']
      files = [f'--train={train}', f'--validation={validation}']
      commands[FUXICTR] = [*theirs, *files]
    return medians(commands, rounds)


def compare(found: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
  """The rows of the table."""
  seconds = {name: values['epoch'] for name, values in found.items()}
  row = peers.row(
    'epoch of Frappe with validation',
    's',
    seconds,
    _TARGET,
    less_is_better=True,
  )
  return [row | {FUXICTR: seconds.get(FUXICTR)}]


def main() -> None:
  """Times both and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--train', required=True, help='CSV')
  parser.add_argument('--validation', required=True, help='CSV')
  parser.add_argument(
    '--peer_python', default='', help='a Python with FuxiCTR; default: none'
  )
  parser.add_argument('--rounds', type=int, default=7)
  arguments = parser.parse_args()
  found = measure(
    arguments.train,
    arguments.validation,
    arguments.peer_python,
    arguments.rounds,
  )
  for name, values in found.items():
    print(name, values, file=sys.stderr)
  machine.show('frappe', compare(found))


if __name__ == '__main__':
  main()
