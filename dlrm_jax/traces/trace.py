"""Synthetic traces: sequences of ids with given popularity and locality.

*Hot* ids, which have large shares of all accesses, are drawn independently by
a power law, which gives their popularity. *Cold* ids follow the LRU stack
model, which gives their locality: draw a stack distance, take the id at that
depth of the stack, and move it to the top. The LRU stack model alone would make
all ids equally popular in the long run.
"""

import dataclasses

import numpy as np

from dlrm_jax.errors import InputError
from dlrm_jax.traces.lru_stack import ids_at
from dlrm_jax.traces.power_law import STEEPEST, power_law


@dataclasses.dataclass(frozen=True)
class Trace:
  """Distribution of the ids of one feature.

  Attributes:
    rows: size of the vocabulary.
    hotness: largest number of ids of an example.
    exponent: exponent of the power law of the hot ids.
    hot: number of hot ids, which are 0 ... hot - 1.
    hot_share: share of the hot ids in all accesses.
    distances: ascending stack distances among the accesses of cold ids,
      beginning with 0 (an id not used before). Probability is spread evenly
      between two of them.
    cumulative: for each of `distances`, the share of distances that are not
      larger; the last is 1.
  """

  rows: int
  hotness: int = 1
  exponent: float = 1.0
  hot: int = 0
  hot_share: float = 0.0
  distances: tuple[int, ...] = (0,)
  cumulative: tuple[float, ...] = (1.0,)

  def __post_init__(self) -> None:
    for field, low, high in (
      ('rows', 1, 2**31 - 1),
      ('hotness', 1, 2**15),
      ('hot', 0, self.rows),
      ('exponent', 0, STEEPEST),
      ('hot_share', 0, 1 if self.hot else 0),
    ):
      value = getattr(self, field)
      if not low <= value <= high:
        raise InputError(f'{field} is {value}; expected {low} ... {high}')
    if self.hot == self.rows and self.hot_share < 1:
      raise InputError(
        f'hot_share is {self.hot_share}, but all {self.rows} rows are hot; '
        'expected 1'
      )
    _check_distances(self)


def _check_distances(trace: Trace) -> None:
  distances, shares = np.array(trace.distances), np.array(trace.cumulative)
  if len(distances) != len(shares) or not len(shares):
    raise InputError(
      f'{len(distances)} distances but {len(shares)} cumulative shares; '
      'expected as many, one or more'
    )
  if distances[0] != 0 or np.any(np.diff(distances) <= 0):
    raise InputError('distances must ascend from 0, an id not used before')
  rows = trace.rows - trace.hot
  if distances[-1] > rows:
    raise InputError(
      f'the largest distance is {distances[-1]}, deeper than the {rows} rows '
      'that are not hot'
    )
  if not (shares[0] > 0 and np.all(np.diff(shares) >= 0)):
    raise InputError('cumulative shares must ascend, the first more than 0')
  if not abs(shares[-1] - 1) < 1e-6:
    raise InputError(f'cumulative shares end in {shares[-1]}; expected 1')


def draw_distances(
  trace: Trace, n: int, rng: np.random.Generator
) -> np.ndarray:
  """Independent stack distances of cold ids, i64[n]."""
  distances, shares = np.array(trace.distances), np.array(trace.cumulative)
  uniform = rng.random(n) * shares[-1]
  above = np.searchsorted(shares, uniform, 'right')
  below = np.maximum(above - 1, 0)
  # Uniform among the distances above `below`, up to `above`.
  width = distances[above] - distances[below]
  share = np.where(above > 0, shares[above] - shares[below], 1)
  part = (uniform - shares[below]) / share
  inside = np.minimum((part * width).astype(np.int64), width - 1)
  return np.where(above > 0, distances[below] + 1 + inside, 0)


def _depths(distances: list[int], rows: int) -> list[int]:
  """Stack distances -> depths in a stack of `rows` ids, all unused at first.

  A distance greater than the number of used ids is exchanged with the last
  distance 0 of the sequence, which brings a new id. So the stack fills early,
  as in real traces, and the distribution is kept. When all rows are used, a
  new id is the one that was not used for longest.
  """
  distances = list(distances)
  fresh = [t for t, distance in enumerate(distances) if distance == 0]
  used = 0
  for t, distance in enumerate(distances):
    if 0 < distance <= used:
      continue
    if distance and fresh and fresh[-1] > t:
      distances[fresh.pop()] = distance
    used = min(used + 1, rows)
    distances[t] = used
  return distances


def generate(trace: Trace, n: int, rng: np.random.Generator) -> np.ndarray:
  """Draws a sequence of ids, which begins with all ids unused.

  Ids are numbered by popularity: the hot ids first, then the cold ids by their
  counts in this sequence.

  >>> trace = Trace(6, distances=(0, 1, 2), cumulative=(0.5, 0.9, 1.0))
  >>> generate(trace, 8, np.random.default_rng(0)).tolist()
  [2, 0, 0, 1, 1, 0, 0, 0]

  Args:
    trace: distribution of the ids.
    n: length of the sequence, less than 2^31.
    rng: source of randomness.

  Returns:
    i32[n].
  """
  hot = rng.random(n) < trace.hot_share
  ids = np.empty(n, np.int32)
  ids[hot] = power_law(rng.random(hot.sum()), trace.hot, trace.exponent)
  distances = draw_distances(trace, n - int(hot.sum()), rng)
  depths = _depths(distances.tolist(), trace.rows - trace.hot)
  cold = ids_at(np.array(depths, np.int64))
  order = np.argsort(-np.bincount(cold), kind='stable')
  rank = np.empty(len(order), np.int32)
  rank[order] = np.arange(len(order), dtype=np.int32)
  ids[~hot] = trace.hot + rank[cold]
  return ids
