"""Real ids and synthetic ones of the same trace: hits of caches, and rates.

python -m benchmarks.traces --data=data/kaggle --trace=trace.json

For each feature of a prepared set: the share of accesses that a cache of the
ids used last has, for the ids of the set and for as many generated ones.
Rates are ids a second of CPU time, over all features.
"""

import argparse
import time

import numpy as np

from benchmarks import machine
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.synthetic.log import Synthetic
from dlrm_jax.traces.fit import fit, read_ids
from dlrm_jax.traces.lru_stack import stack_distances
from dlrm_jax.traces.trace import generate
from dlrm_jax.traces.trace_files import write_traces

_SIZES = (64, 1024, 16384)


def _hits(ids: np.ndarray) -> list[float]:
  """The share of accesses that caches of these sizes have."""
  distances = stack_distances(ids)
  near = [(distances > 0) & (distances <= size) for size in _SIZES]
  return [float(np.mean(x)) for x in near]


def _top(ids: np.ndarray) -> float:
  """The share of the 1,000 ids seen most often."""
  return float(np.sort(np.bincount(ids))[-1000:].sum() / len(ids))


def _block_rate(file: str, blocks: int) -> float:
  """Examples a second of a synthetic log of these traces."""
  source = Synthetic(trace=file).source('train')
  source[0]
  start = time.process_time()
  examples = sum(len(source[block].labels) for block in range(blocks))
  return examples / (time.process_time() - start)


def main() -> None:
  """Measures and generates every feature, and compares."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', required=True, help='a prepared set')
  parser.add_argument('--examples', type=int, default=1_000_000)
  parser.add_argument('--trace', required=True, help='JSON to write')
  arguments = parser.parse_args()
  source = open_prepared(arguments.data).source('train')
  columns, rows, traces = source.schema.sparse, [], {}
  seconds = {'measure': 0.0, 'generate': 0.0}
  total = 0
  every = read_ids(source, arguments.examples)
  for number, (column, ids) in enumerate(zip(columns, every, strict=True)):
    start = time.process_time()
    trace = traces[column.name] = fit(ids, column.rows, column.hotness)
    fitted = time.process_time()
    made = generate(trace, len(ids), np.random.default_rng(number))
    seconds['generate'] += time.process_time() - fitted
    seconds['measure'] += fitted - start
    total += len(ids)
    row = {'feature': column.name, 'rows': column.rows}
    row |= {'distinct': f'{len(np.unique(ids))} / {len(np.unique(made))}'}
    both = zip(_SIZES, _hits(ids), _hits(made), strict=True)
    row |= {f'LRU {size}': f'{a:.3f} / {b:.3f}' for size, a, b in both}
    row['top 1000'] = f'{_top(ids):.3f} / {_top(made):.3f}'
    rows.append(row)
  machine.show('traces', rows)
  write_traces(traces, arguments.trace)
  rates = [{k: f'{total / s:,.0f} ids/s' for k, s in seconds.items()}]
  blocks = _block_rate(arguments.trace, 100)
  machine.show('rates', [{**rates[0], 'blocks': f'{blocks:,.0f} examples/s'}])


if __name__ == '__main__':
  main()
