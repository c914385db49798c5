"""Training from disk beside training on batches held in memory.

python -m benchmarks.feeding --data=data/kaggle

Held are the batches of one epoch, on the device, and as many on the host, from
where they are sent as those from disk are. The ways take turns, so that other
programs meet all alike; shares are medians over the rounds.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks import machine
from configs import criteo_kaggle
from dlrm_jax import sharding
from dlrm_jax.batch import Batch
from dlrm_jax.build.data import open_data
from dlrm_jax.build.run import build_run
from dlrm_jax.data.loader import training_batches
from dlrm_jax.run.description import Run
from dlrm_jax.run.meter import Meter
from dlrm_jax.training.state import new_state
from dlrm_jax.training.step import compiled_step


class Spent(NamedTuple):
  """Seconds of time, and of CPU time of all threads."""

  time: float
  cpu: float


class _Trainer:
  """Trains on what it is given, as the training loop does."""

  def __init__(self, run: Run) -> None:
    self._size = run.reading.batch_size
    self._update = compiled_step(run.task)
    self._state = new_state(run.task, jax.random.key(0))

  def __call__(self, batches: Iterator[Batch], steps: int) -> Spent:
    meter = Meter(self._size)
    start, cpu = time.perf_counter(), time.process_time()
    for step, batch in enumerate(itertools.islice(batches, steps)):
      self._state, told = self._update(self._state, batch)
      meter.add(step, told)
    meter.settle()
    return Spent(time.perf_counter() - start, time.process_time() - cpu)


def _run(data: str, size: int) -> Run:
  config = criteo_kaggle.get_config()
  config.data.dir, config.train.batch_size = data, size
  return build_run(config, open_data(config), Path())


def _measure(data: str, size: int, steps: int, rounds: int) -> dict[str, str]:
  run = _run(data, size)
  source, train = run.data.source('train'), _Trainer(run)
  disk = training_batches(source, run.reading)
  held = [next(disk) for _ in range(max(1, round(run.steps_per_epoch)))]
  ways = {
    'device': itertools.cycle([sharding.send(batch) for batch in held]),
    'host': map(sharding.send, itertools.cycle(held)),
    'disk': map(sharding.send, disk),
  }
  for batches in ways.values():
    train(batches, 3)
  spent = [
    {way: train(batches, steps) for way, batches in ways.items()}
    for _ in range(rounds)
  ]
  row = {'batch': str(size)}
  for way in ways:
    rate = size * steps / statistics.median(s[way].time for s in spent)
    row[f'examples/s, {way}'] = f'{rate:,.0f}'
  for way in ('device', 'host'):
    share = statistics.median(s[way].time / s['disk'].time for s in spent)
    by_cpu = statistics.median(s[way].cpu / s['disk'].cpu for s in spent)
    row[f'disk : {way}, time'] = f'{share:.3f}'
    row[f'disk : {way}, CPU time'] = f'{by_cpu:.3f}'
  return row


def main() -> None:
  """Trains for a while at each batch size and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', required=True, help='a prepared set')
  parser.add_argument('--rounds', type=int, default=11)
  arguments = parser.parse_args()
  rows = [
    _measure(arguments.data, size, steps, arguments.rounds)
    for size, steps in ((128, 300), (8192, 6))
  ]
  machine.show('feeding', rows)


if __name__ == '__main__':
  main()
