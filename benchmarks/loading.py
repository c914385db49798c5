"""Seconds from the start of a process to the first prediction of a model.

python -m benchmarks.loading --model=DIR [--model=DIR ...]

DIR is an export or a workdir. Each measurement is a process of its own, which
imports JAX, loads the model and scores one row of missing values, first as
arrays, then as raw values; of several, the medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from benchmarks import machine

_CODE = """
import json, sys, time
seconds = [time.perf_counter()]
def lap():
  seconds.append(time.perf_counter())
import jax
lap()
import dlrm_jax
model = dlrm_jax.load(sys.argv[1])
lap()
schema = model.card.schema
model.score([[0.0] * len(schema.dense)], [[-1] * schema.hotness])
lap()
model.predict({name: [None] for name in model.intake.schema.names})
lap()
print(json.dumps([b - a for a, b in zip(seconds, seconds[1:])]))
"""

_LAPS = ('import jax', 'load', 'first score', 'first predict')


def _measured(model: str) -> list[float]:
  done = subprocess.run(
    [sys.executable, '-c', _CODE, model],
    capture_output=True,
    text=True,
    check=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )
  return json.loads(done.stdout)


def main() -> None:
  """Measures every model and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model', action='append', required=True, metavar='DIR')
  parser.add_argument('--rounds', type=int, default=7)
  arguments = parser.parse_args()
  rows: list[dict[str, Any]] = []
  for model in arguments.model:
    _measured(model)  # files come into the system's cache
    seen = [_measured(model) for _ in range(arguments.rounds)]
    laps = list(zip(*seen, strict=True))
    row = dict(zip(_LAPS, map(statistics.median, laps), strict=True))
    rows.append({'model': model, **row, 'total': sum(row.values())})
  machine.show('loading', rows)


if __name__ == '__main__':
  main()
