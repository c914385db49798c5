"""Fits a `Trace` to a sequence of ids, or to the features of a click log.

Ids with a thousandth of all accesses or more are hot; the power law is fitted
to their counts. For all other accesses, the cumulative distribution of stack
distances is kept, at every distance up to 64 and then at 16 for each octave.
"""

import numpy as np

from dlrm_jax.batch import PAD
from dlrm_jax.data.schema import BLOCK_ROWS, Source
from dlrm_jax.traces.lru_stack import stack_distances
from dlrm_jax.traces.power_law import fit_exponent
from dlrm_jax.traces.trace import Trace

_HOT = 1000  # An id with 1/1000 of all accesses is hot.
_EXACT = 64
_STEPS = 16


def _grid(deepest: int) -> np.ndarray:
  """Distances in 0 ... deepest at which the distribution is kept."""
  octaves = np.log2(max(deepest, _EXACT) / _EXACT)
  beyond = _EXACT * 2 ** (np.arange(octaves * _STEPS + 1) / _STEPS)
  grid = np.concatenate([np.arange(_EXACT), beyond.astype(int), [deepest]])
  return np.unique(grid[grid <= deepest])


def _distribution(ids: np.ndarray) -> tuple[tuple[int, ...], tuple[float, ...]]:
  """Stack distances of a sequence, and their cumulative shares.

  Of an empty sequence, all accesses are new ids.
  """
  if not len(ids):
    return (0,), (1.0,)
  counts = np.bincount(stack_distances(ids))
  distances = _grid(len(counts) - 1)
  shares = np.cumsum(counts)[distances] / len(ids)
  return tuple(distances.tolist()), tuple(shares.tolist())


def fit(ids: np.ndarray, rows: int, hotness: int = 1) -> Trace:
  """Fits a trace to a sequence of ids.

  Args:
    ids: ids in 0 ... rows - 1 in the order of time, [n] with n > 0.
    rows: size of the vocabulary.
    hotness: largest number of ids of an example.
  """
  counts = np.bincount(ids, minlength=rows)
  hot = counts * _HOT >= len(ids)
  distances, cumulative = _distribution(ids[~hot[ids]])
  return Trace(
    rows=rows,
    hotness=hotness,
    exponent=fit_exponent(counts[hot]),
    hot=int(hot.sum()),
    hot_share=float(counts[hot].sum() / len(ids)),
    distances=distances,
    cumulative=cumulative,
  )


def read_ids(source: Source, examples: int) -> list[np.ndarray]:
  """Ids of each feature in the first examples, in order, without PAD.

  Args:
    source: examples in the order of time.
    examples: number of examples; a smaller source is read whole.
  """
  examples = min(examples, source.examples)
  blocks = range(-(-examples // BLOCK_ROWS))
  ids = np.concatenate([source[block].ids for block in blocks])[:examples]
  ends = np.cumsum([column.hotness for column in source.schema.sparse])
  bags = np.split(ids, ends[:-1], axis=1)
  return [bag[bag != PAD] for bag in bags]


def fit_source(source: Source, examples: int) -> dict[str, Trace]:
  """Fits a trace to each feature; leaves out features without ids.

  Args:
    source: examples in the order of time.
    examples: number of examples; a smaller source is read whole.
  """
  columns = source.schema.sparse
  return {
    column.name: fit(ids, column.rows, column.hotness)
    for column, ids in zip(columns, read_ids(source, examples), strict=True)
    if len(ids)
  }
