"""Examples a second that the loader delivers from a prepared set, one core.

python -m benchmarks.loader --data=data/kaggle
"""

import argparse
import os
import time

from benchmarks import machine
from dlrm_jax.data.loader import Reading, training_batches
from dlrm_jax.data.prepared import open_prepared


def main() -> None:
  """Reads for some seconds at each batch size and prints the rates."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', required=True, help='a prepared set')
  parser.add_argument('--seconds', type=float, default=5.0)
  arguments = parser.parse_args()
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  source = open_prepared(arguments.data).source('train')
  rows = []
  for size in (128, 2048, 8192):
    batches = training_batches(source, Reading(size))
    next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < arguments.seconds:
      next(batches)
      count += size
    rate = count / (time.perf_counter() - start)
    rows.append({'batch': size, 'examples/s, one core': f'{rate:,.0f}'})
  machine.show('loader', rows)


if __name__ == '__main__':
  main()
