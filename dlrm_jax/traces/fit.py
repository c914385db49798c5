"""Fits a `Trace` to a sequence of ids, or to the features of a click log.

Ids with a thousandth of all accesses or more are hot: their counts give the
power law. Of the stack distances among the other accesses the cumulative
distribution is kept: at every distance up to 64, then at 16 an octave.
"""

import numpy as np

from dlrm_jax.batch import PAD
from dlrm_jax.data.schema import BLOCK_ROWS, Source
from dlrm_jax.traces.lru_stack import stack_distances
from dlrm_jax.traces.power_law import fit_exponent
from dlrm_jax.traces.trace import Trace

_HOT = 1000  # an id with one of so many accesses is hot
_EXACT = 64
_STEPS = 16


def _grid(deepest: int) -> np.ndarray:
  """Distances at which a distribution is kept, 0 ... deepest."""
  octaves = np.log2(max(deepest, _EXACT) / _EXACT)
  beyond = _EXACT * 2 ** (np.arange(octaves * _STEPS + 1) / _STEPS)
  grid = np.concatenate([np.arange(_EXACT), beyond.astype(int), [deepest]])
  return np.unique(grid[grid <= deepest])


def _distribution(ids: np.ndarray) -> tuple[tuple[int, ...], tuple[float, ...]]:
  """Stack distances and their cumulative shares; of nothing: all new."""
  if not len(ids):
    return (0,), (1.0,)
  counts = np.bincount(stack_distances(ids))
  distances = _grid(len(counts) - 1)
  shares = np.cumsum(counts)[distances] / len(ids)
  return tuple(distances.tolist()), tuple(shares.tolist())


def fit(ids: np.ndarray, rows: int, hotness: int = 1) -> Trace:
  """What a sequence of ids is like.

  Args:
    ids: [n], n > 0, of 0 ... rows - 1, in the order of time.
    rows: their vocabulary.
    hotness: ids an example has at most.
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
    source: in the order of time.
    examples: how many, where there are as many.
  """
  examples = min(examples, source.examples)
  blocks = range(-(-examples // BLOCK_ROWS))
  ids = np.concatenate([source[block].ids for block in blocks])[:examples]
  ends = np.cumsum([column.hotness for column in source.schema.sparse])
  bags = np.split(ids, ends[:-1], axis=1)
  return [bag[bag != PAD] for bag in bags]


def fit_source(source: Source, examples: int) -> dict[str, Trace]:
  """What the ids of each feature are like, by its name.

  A feature without any id is left out. Arguments as for `read_ids`.
  """
  columns = source.schema.sparse
  found = zip(columns, read_ids(source, examples), strict=True)
  return {
    column.name: fit(ids, column.rows, column.hotness)
    for column, ids in found
    if len(ids)
  }
