"""Synthetic traces: ids of a wanted popularity and a wanted locality.

A sequence of ids is made of two parts. *Hot* ids, each with a sizeable share
of all accesses, come independently, by a power law: they are as popular as
wanted. The others, *cold*, follow the LRU stack model: draw a stack distance,
take the id at that depth, put it on top; their locality is as wanted. (That
model alone makes all ids equally popular in the long run.) Without hot ids
this is the LRU stack model, without cold ones a power law.
"""

import dataclasses

import numpy as np

from dlrm_jax.errors import InputError
from dlrm_jax.traces.lru_stack import ids_at
from dlrm_jax.traces.power_law import STEEPEST, power_law


@dataclasses.dataclass(frozen=True)
class Trace:
  """What the ids of one feature are like.

  Attributes:
    rows: vocabulary.
    hotness: ids an example has at most.
    exponent: of the power law of the hot ids.
    hot: ids 0 ... hot - 1 are hot.
    hot_share: of all accesses.
    distances: stack distances among the accesses of cold ids, from 0 (an id
      not used before) on, ascending; between two of them probability is
      spread evenly.
    cumulative: share of distances that are not larger, for each; ends in 1.
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
  # Within a step: any of the distances after the last one, up to the next.
  width = distances[above] - distances[below]
  share = np.where(above > 0, shares[above] - shares[below], 1)
  part = (uniform - shares[below]) / share
  inside = np.minimum((part * width).astype(np.int64), width - 1)
  return np.where(above > 0, distances[below] + 1 + inside, 0)


def _depths(distances: list[int], rows: int) -> list[int]:
  """Distances to depths at which ids lie, from an empty stack on.

  A distance that is deeper than what has been used changes places with the
  last new id to come: so the stack fills early, as real ones do, and the
  distances stay the same on the whole. When every row has been used, the one
  unused for longest is as new as any.
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
  """A trace that begins with nothing used.

  Ids are numbered by popularity: first the hot ones, then the cold ones by
  how often this trace has them.

  >>> trace = Trace(6, distances=(0, 1, 2), cumulative=(0.5, 0.9, 1.0))
  >>> generate(trace, 8, np.random.default_rng(0)).tolist()
  [2, 0, 0, 1, 1, 0, 0, 0]

  Args:
    trace: what it is like.
    n: its length, less than 2^31.
    rng: what to draw from.

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
