"""Examples a second that the loader delivers on one core, and its first batch.

python -m benchmarks.loader --data=data/kaggle

Rates are by CPU time, so that other programs on the machine count little; all
threads of the process share the core. The first batch is timed from before
the prepared set is opened, at step 0 and in the millionth epoch.
"""

import argparse
import os
import statistics
import time

from benchmarks import machine
from dlrm_jax.data.loader import Reading, training_batches
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.schema import Source


def _rates(source: Source, size: int, seconds: float) -> list[tuple]:
  """Examples a second of CPU time and of time, in five rounds."""
  batches = training_batches(source, Reading(size))
  next(batches)
  rates = []
  for _ in range(5):
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds / 5:
      next(batches)
      count += size
    cpu, wall = time.process_time() - cpu, time.perf_counter() - start
    rates.append((count / cpu, count / wall))
  return rates


def _first(data: str, size: int, step: int) -> float:
  """Milliseconds from a closed set to its first batch."""
  start = time.perf_counter()
  source = open_prepared(data).source('train')
  next(training_batches(source, Reading(size), step))
  return 1000 * (time.perf_counter() - start)


def main() -> None:
  """Reads for some seconds at each batch size and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', required=True, help='a prepared set')
  parser.add_argument('--seconds', type=float, default=5.0)
  arguments = parser.parse_args()
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  source = open_prepared(arguments.data).source('train')
  rows = []
  for size in (128, 2048, 8192):
    rates = _rates(source, size, arguments.seconds)
    cpu, wall = (statistics.median(x) for x in zip(*rates, strict=True))
    late = 1_000_000 * source.examples // size
    first = [
      [_first(arguments.data, size, step) for _ in range(5)]
      for step in (0, min(late, 2**30))
    ]
    rows.append(
      {
        'batch': size,
        'examples/s of CPU time': f'{cpu:,.0f}',
        'examples/s': f'{wall:,.0f}',
        'first batch, ms': f'{statistics.median(first[0]):.0f}',
        'first batch late, ms': f'{statistics.median(first[1]):.0f}',
      }
    )
  machine.show('loader', rows)


if __name__ == '__main__':
  main()
