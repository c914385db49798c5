"""Quality on a Criteo log: the configs, several seeds, through the commands.

  python -m benchmarks.criteo_quality --input=train.txt

First 6/7 of the rows train, the last 1/7 test, one epoch.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine

_ADAGRAD = (
  '--config.optimizer.name=adagrad',
  '--config.optimizer.learning_rate=0.01',
  '--config.table_optimizer.name=adagrad',
  '--config.table_optimizer.learning_rate=0.01',
)
JOBS: dict[str, tuple[str, int, tuple[str, ...]]] = {
  # name: (variant, min_count, flags)
  'reference: SGD 0.1, batch 128': ('', 1, ()),
  'Adagrad 0.01, batch 128': ('', 1, _ADAGRAD),
  'variant best': (':best', 2, ()),
  'variant branches': (':branches', 2, ()),
}


def _run(*command: str) -> float:
  start = time.perf_counter()
  subprocess.run([sys.executable, *command], check=True, capture_output=True)
  return time.perf_counter() - start


def _job(name: str, source: str, seeds: int, folder: Path) -> dict[str, Any]:
  variant, min_count, flags = JOBS[name]
  data = folder / f'data{min_count}'
  if not data.exists():
    _run(
      *('-m', 'dlrm_jax.prepare', 'criteo', f'--input={source}'),
      *(f'--output={data}', f'--min_count={min_count}'),
      '--splits=train=6/7,test=1/7',
    )
  scores, seconds = [], []
  for seed in range(seeds):
    workdir = Path(tempfile.mkdtemp(dir=folder)) / 'run'
    seconds.append(
      _run(
        *('train.py', f'--config=configs/criteo_kaggle.py{variant}'),
        *(f'--config.data.dir={data}', f'--workdir={workdir}'),
        *(f'--config.seed={seed}', *flags),
      )
    )
    results = json.loads((workdir / 'results.json').read_text())
    scores.append(results['splits']['test'])
  aucs = [score['auc'] for score in scores]
  return {
    'settings': name,
    'AUC, median': round(statistics.median(aucs), 4),
    'AUC, each seed': ' '.join(f'{auc:.4f}' for auc in aucs),
    'log-loss, median': round(
      statistics.median(score['log_loss'] for score in scores), 4
    ),
    'seconds, train and test': round(statistics.median(seconds), 1),
  }


def main() -> None:
  """Runs all jobs and prints their table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--input', required=True, help='a raw Criteo log')
  parser.add_argument('--seeds', type=int, default=3)
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    rows = [
      _job(name, arguments.input, arguments.seeds, Path(folder))
      for name in JOBS
    ]
  machine.show('criteo_quality', rows)


if __name__ == '__main__':
  main()
