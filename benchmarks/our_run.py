"""A training run of the Kaggle shape, on a log made on the fly.

It starts, steps, and holds what a run on a prepared set does, with tables of
the size of `benchmarks.kaggle`; no data has to be at hand.
"""

import sys
from pathlib import Path

from benchmarks import kaggle

ROOT = Path(__file__).resolve().parent.parent
"""Where its command is to be run."""

_LEAST = 6
"""Ids that a feature of a synthetic log must have."""


def command(workdir: Path, steps: int, batch: int, *flags: str) -> list[str]:
  """Trains, evaluates and saves.

  Args:
    workdir: of the run.
    steps: to make.
    batch: B.
    *flags: further ones.
  """
  rows = tuple(max(_LEAST, rows) for rows in kaggle.ROWS)
  fields = {
    'data.kind': 'synthetic',
    'data.synthetic.dense': kaggle.DENSE,
    'data.synthetic.tables': rows,
    'data.synthetic.hotness': (1,) * len(rows),
    'data.synthetic.validation': 16_384,
    'data.synthetic.test': 16_384,
    'train.steps': steps,
    'train.batch_size': batch,
    'train.log_every': 1,
  }
  return [
    *(sys.executable, 'train.py', '--config=configs/criteo_kaggle.py'),
    *(f'--config.{name}={value}' for name, value in fields.items()),
    *flags,
    f'--workdir={workdir}',
  ]
