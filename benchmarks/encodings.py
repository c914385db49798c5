r"""Lookups with every encoding, beside the plain one.

  python -m benchmarks.encodings --batch_size=2048 --ids=1000000

Times ids to vectors, f32[B, F, D]: rows, gather, combine; on one device, with
power-law ids. Encodings take turns with plain, so that both see the same
minutes of a shared machine; the ratio is the median over rounds.
"""

import argparse
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from configs import synthetic
from dlrm_jax.batch import Inputs
from dlrm_jax.build.data import open_data
from dlrm_jax.build.task import build_task
from dlrm_jax.traces.power_law import power_law
from dlrm_jax.training.sizes import saving
from dlrm_jax.training.state import Task

ENCODINGS: dict[str, dict[str, Any]] = {
  'plain': {'encoding': 'plain'},
  'hashed': {'encoding': 'hashed'},
  'hashed, 2 hashes, add': {'encoding': 'hashed', 'parts': 2, 'combine': 'add'},
  'quotient_remainder mult': {'encoding': 'quotient_remainder'},
  'quotient_remainder add': {
    'encoding': 'quotient_remainder',
    'combine': 'add',
  },
  'quotient_remainder concat': {
    'encoding': 'quotient_remainder',
    'combine': 'concat',
  },
  'quotient_remainder mult, 3 parts': {
    'encoding': 'quotient_remainder',
    'parts': 3,
  },
  'quotient_remainder path': {
    'encoding': 'quotient_remainder',
    'combine': 'path',
  },
  'chinese_remainder mult': {'encoding': 'chinese_remainder'},
  'mixed_dims': {'encoding': 'mixed_dims'},
  'robe': {'encoding': 'robe'},
  'tensor_train': {'encoding': 'tensor_train'},
}


_BATCHES = 50  # so many that their rows don't stay in a cache


class Vectors(nn.Module):
  """The model that gives back what it sees."""

  @nn.compact
  def __call__(
    self, dense: jax.Array, vectors: Mapping[str, jax.Array], train: bool
  ) -> jax.Array:
    """f32[B, F, D]."""
    del dense, train
    return vectors['vectors']


def make_task(arguments: argparse.Namespace, fields: dict[str, Any]) -> Task:
  """A model of so many equal features; mixed_dims needs unequal ones."""
  config = synthetic.get_config()
  sizes = [arguments.ids] * arguments.features
  if fields['encoding'] == 'mixed_dims':
    sizes[0] = arguments.ids // 100
  config.data.synthetic.tables = tuple(sizes)
  config.data.synthetic.hotness = (1,) * arguments.features
  config.model.dim, config.tables.shards = arguments.dim, 1
  config.train.batch_size = arguments.batch_size
  config.tables.update(fields)
  data = open_data(config)
  return build_task(config, data.schema, data.scale)


def make_lookup(
  arguments: argparse.Namespace, task: Task
) -> Callable[[], jax.Array]:
  """A compiled lookup, of the next of some batches each time."""
  collection = task.collection
  network = dataclasses.replace(task.network, model=Vectors())
  layers = network.init(jax.random.key(1))
  tables = jax.jit(collection.init)(jax.random.key(0))
  shape = (_BATCHES, arguments.batch_size, arguments.features)
  uniform = np.random.default_rng(0).random(shape)
  columns = [
    power_law(uniform[..., i], feature.encoding.ids, 1.0)
    for i, feature in enumerate(collection.features)
  ]
  batches = itertools.cycle(list(jnp.asarray(np.stack(columns, -1))))

  @jax.jit
  def lookup(tables: Any, layers: Any, ids: jax.Array) -> Any:
    inputs = Inputs(jnp.zeros((len(ids), 0)), ids)
    return network.outputs(layers, tables, inputs)

  return lambda: lookup(tables, layers, next(batches))


def seconds(lookup: Callable[[], jax.Array], repeats: int) -> float:
  """Of one lookup."""
  start = time.perf_counter()
  for _ in range(repeats):
    lookup().block_until_ready()
  return (time.perf_counter() - start) / repeats


def main() -> None:
  """Times all, in turns with plain."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--batch_size', type=int, default=2048)
  parser.add_argument('--features', type=int, default=26)
  parser.add_argument('--ids', type=int, default=1_000_000)
  parser.add_argument('--dim', type=int, default=16)
  parser.add_argument('--rounds', type=int, default=15)
  parser.add_argument('--only', nargs='*', default=list(ENCODINGS))
  arguments = parser.parse_args()
  rows = []
  plain = make_lookup(arguments, make_task(arguments, ENCODINGS['plain']))
  for name in arguments.only:
    task = make_task(arguments, ENCODINGS[name])
    lookup = make_lookup(arguments, task)
    seconds(lookup, 3), seconds(plain, 3)
    times = [
      (seconds(lookup, 10), seconds(plain, 10)) for _ in range(arguments.rounds)
    ]
    found = saving(task)
    rows.append(
      {
        'encoding': name,
        'parameters': f'{found.parameters:,}',
        'times fewer': f'{found.plain / found.parameters:.3g}',
        'lookup, ms': f'{1e3 * statistics.median(t for t, _ in times):.2f}',
        'plain, ms': f'{1e3 * statistics.median(p for _, p in times):.2f}',
        'ratio': f'{statistics.median(t / p for t, p in times):.2f}',
      }
    )
    del lookup
    jax.clear_caches()
  machine.show('encodings', rows)


if __name__ == '__main__':
  main()
