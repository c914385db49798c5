"""Rows a second and peak memory from a raw Criteo log to predictions.

python -m benchmarks.predict --workdir=DIR --input=train.txt --rows=5000000
python -m benchmarks.predict --workdir=DIR --input=train.txt --dlrm=PATH

DIR is a run of a Criteo model, or an export of one. The log is made of copies
of the input (see `benchmarks.prepare`); seconds are those of the whole command.
PATH is a checkout of facebookresearch/dlrm: its loader and its model of the
Kaggle shape score the input itself, in batches of 2,048; the time that its
preprocessing takes before is told apart.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine, peers
from benchmarks.prepare import replicate, timed


def _row(
  who: str, rows: int, seconds: float, peak: int | None = None
) -> dict[str, Any]:
  return {
    'program': who,
    'rows': f'{rows:,}',
    'seconds': f'{seconds:.1f}',
    'rows/s': f'{rows / seconds:,.0f}',
    'peak memory, MB': None if peak is None else f'{peak / 1e6:,.0f}',
  }


def _ours(workdir: str, source: Path, rows: int, work: Path) -> dict[str, Any]:
  log = work / 'log.txt'
  made = replicate(source, rows, log)
  command = [
    *(sys.executable, '-m', 'dlrm_jax.predict', f'--workdir={workdir}'),
    *(f'--data={log}', f'--output={work / "scores.parquet"}'),
  ]
  seconds, peak = timed(command, Path.cwd())
  log.unlink()
  return _row('dlrm_jax.predict', made, seconds, peak)


def _reference(
  python: str, dlrm: str, source: Path, work: Path
) -> list[dict[str, Any]]:
  command = [python, '-m', 'benchmarks.peer_predict', f'--dlrm={dlrm}']
  done = subprocess.run(
    [*command, f'--input={source}', f'--work={work}'],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    sys.exit(done.stderr[-2000:])
  seen = json.loads(done.stdout.splitlines()[-1])
  return [
    _row(f'{peers.DLRM}, loader and model', seen['rows'], seen['scoring']),
    _row(
      f'{peers.DLRM}, with its preprocessing',
      seen['rows'],
      seen['scoring'] + seen['preprocessing'],
    ),
  ]


def main() -> None:
  """Scores with each program and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__)
  peers.add_flags(parser, rounds=1)
  parser.add_argument('--workdir', required=True, help='a run, or an export')
  parser.add_argument('--input', required=True, type=Path)
  parser.add_argument('--rows', type=int, default=5_000_000)
  arguments = parser.parse_args()
  source, rows = arguments.input.absolute(), []
  found = peers.find(arguments)
  with tempfile.TemporaryDirectory() as name:
    work = Path(name)
    for _ in range(arguments.rounds):
      rows.append(_ours(arguments.workdir, source, arguments.rows, work))
      if found.dlrm:
        dlrm = os.path.abspath(found.dlrm)
        rows += _reference(found.python, dlrm, source, work)
  machine.show('predict', rows)


if __name__ == '__main__':
  main()
