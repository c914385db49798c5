"""Sizes of smaller tables: the most buckets, rank or width for a budget.

A budget is a number of parameters: elements of tables, and of the layers that
an encoding makes. Everything here is arithmetic on a few integers.
"""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from dlrm_jax.errors import InputError

Cost = Callable[[tuple[int, ...]], int]
"""Numbers of buckets -> parameters; linear in each."""


def next_coprime(number: int, others: Sequence[int]) -> int:
  """A number, or the next one without a common divisor with any other.

  >>> next_coprime(20, (50,)), next_coprime(21, (50,))
  (21, 21)
  """
  while any(math.gcd(number, other) > 1 for other in others):
    number += 1
  return number


def small_buckets(
  ids: int, parts: int, coprime: bool = False
) -> tuple[int, ...]:
  """About equal numbers of buckets whose product is at least `ids`.

  >>> small_buckets(10, 2), small_buckets(10, 2, coprime=True)
  ((4, 3), (4, 3))
  """
  found: list[int] = []
  while len(found) < parts:
    left = -(-ids // math.prod(found))
    root = max(math.floor(left ** (1 / (parts - len(found)))), 1)
    while root ** (parts - len(found)) < left:
      root += 1
    found.append(next_coprime(root, found) if coprime else root)
  return tuple(found)


def _numbers(first: int, last: int) -> Iterator[int]:
  """Each of the first ones, then ever fewer."""
  number = first
  while number <= last:
    yield number
    number = max(number + 1, math.floor(1.01 * number))


def least_budget(
  ids: int, parts: int, cost: Cost, coprime: bool = False
) -> int:
  """The fewest parameters with which k partitions tell all ids apart."""

  def least(others: tuple[int, ...]) -> int:
    first = -(-ids // math.prod(others))
    first = next_coprime(first, others) if coprime else first
    return cost((first, *others))

  return min(map(least, _others(ids, parts, coprime)))


def _others(ids: int, parts: int, coprime: bool) -> Iterator[tuple[int, ...]]:
  """What can stand beside the first partition, from few buckets to many."""
  found: dict[tuple[int, ...], None] = {}
  for together in _numbers(1, ids):
    others = small_buckets(together, parts - 1, coprime)
    if others not in found:
      found[others] = None
      yield others


def large_and_small(
  ids: int, parts: int, budget: int, cost: Cost, coprime: bool = False
) -> tuple[int, ...]:
  """One partition as large as it can be, with others that just suffice.

  The ids of a bucket of the first must differ in the others, so the others
  are small, and most ids, the most frequent ones, have a row of the first
  with few others.

  Args:
    ids: n, to tell apart.
    parts: k, 2 or more.
    budget: of parameters.
    cost: of numbers of buckets.
    coprime: whether they must be, pairwise.

  Raises:
    InputError: the budget is too small.

  >>> large_and_small(1000, 2, 250, sum)
  (245, 5)
  """
  each = cost((1,) + (0,) * (parts - 1))
  for others in _others(ids, parts, coprime):
    first = (budget - cost((0, *others))) // each
    while coprime and first > 1 and next_coprime(first, others) > first:
      first -= 1
    if first >= 1 and first * math.prod(others) >= ids:
      return (first, *others)
  raise _too_small(budget, least_budget(ids, parts, cost, coprime))


def _too_small(budget: int, least: int) -> InputError:
  return InputError(
    f'a budget of {budget:,} parameters is too small: it takes {least:,} or '
    f'more; ask for more rows'
  )


def most(budget: int, cost: Callable[[int], int]) -> int:
  """The largest whole number, 1 or more, whose cost fits.

  Args:
    budget: of parameters.
    cost: grows with the number.

  Raises:
    InputError: the budget is too small.

  >>> most(100, lambda n: n * n)
  10
  """
  if cost(1) > budget:
    raise _too_small(budget, cost(1))
  low, high = 1, 2
  while cost(high) <= budget:
    low, high = high, 2 * high
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if cost(middle) <= budget else (low, middle)
  return low


def mixed_widths(
  rows: Sequence[int], dim: int, alpha: float
) -> tuple[int, ...]:
  """Widths by a power law of popularity, rounded to powers of two.

  d_i = D (n_min / n_i)^alpha: an id of a large table is seen less often. A
  power of two keeps rows side by side (`rows.packed`). Source: A. Ginart et
  al., arXiv 1909.11810, with 1 / n_i for the popularity.

  Args:
    rows: n_i of each table.
    dim: D, the largest width.
    alpha: 0: all are D.

  >>> mixed_widths((100, 10_000, 1_000_000), 16, 0.3)
  (16, 4, 1)
  """
  fewest = min(rows)
  exact = (dim * (fewest / n) ** alpha for n in rows)
  return tuple(
    min(max(2 ** round(math.log2(max(d, 1))), 1), dim) for d in exact
  )


def mixed_cost(rows: Sequence[int], dim: int, widths: Sequence[int]) -> int:
  """Parameters of tables and projections; width D has no projection."""
  return sum(
    n * d + (d * dim if d < dim else 0)
    for n, d in zip(rows, widths, strict=True)
  )


_STEEPEST = 32.0  # with it, all but the smallest tables have width 1


def least_mixed(rows: Sequence[int], dim: int) -> int:
  """The fewest parameters that mixed widths can have."""
  return mixed_cost(rows, dim, mixed_widths(rows, dim, _STEEPEST))


def solve_alpha(rows: Sequence[int], dim: int, budget: int) -> float:
  """The least power, or one near it, so the widest tables, for a budget.

  Projections make the cost a little uneven where n is not far above D.

  Raises:
    InputError: the budget is too small.
  """

  def cost(alpha: float) -> int:
    return mixed_cost(rows, dim, mixed_widths(rows, dim, alpha))

  low, high = 0.0, _STEEPEST
  if cost(high) > budget:
    raise _too_small(budget, cost(high))
  if cost(low) <= budget:
    return low
  for _ in range(50):
    middle = (low + high) / 2
    low, high = (low, middle) if cost(middle) <= budget else (middle, high)
  return high


class NotFalling(ValueError):
  """Ids are not in the order of how often they are seen."""


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
  """How often the ids of a table are seen, the most frequent first.

  Hundreds of millions of ids have few thousands of different counts, so they
  are kept as runs of ids that are seen equally often.

  Attributes:
    counts: f64[k], of each run, falling.
    ends: i64[k], ids of this run and those before it.
  """

  counts: np.ndarray
  ends: np.ndarray

  @classmethod
  def of(cls, pieces: Iterable[np.ndarray]) -> 'Seen':
    """The runs of counts that come piece by piece.

    Raises:
      NotFalling: they do not fall.
    """
    counts, ends, last, total = [], [], np.inf, 0
    for piece in pieces:
      if not len(piece):
        continue
      steps = np.diff(piece, prepend=last)
      if np.any(steps > 0):
        raise NotFalling
      first = np.flatnonzero(steps)
      counts.append(piece[first].astype(np.float64))
      ends.append(total + first)  # where the run before ends
      last, total = piece[-1], total + len(piece)
    starts = np.concatenate([*ends, [total]]).astype(np.int64)
    return cls(np.concatenate([*counts, []]), starts[1:])

  def __add__(self, other: 'Seen') -> 'Seen':
    """Counts of ids that two features share."""
    ends = np.union1d(self.ends, other.ends)
    return Seen(self._at(ends) + other._at(ends), ends)

  def _at(self, ends: np.ndarray) -> np.ndarray:
    """The counts of the ids before `ends`; 0 behind the last id."""
    return np.append(self.counts, 0.0)[np.searchsorted(self.ends, ends)]

  def oftener(self, count: float, equal: bool = False) -> int:
    """Ids that are seen oftener, or equally often, too."""
    side = 'right' if equal else 'left'
    runs = int(np.searchsorted(-self.counts, -count, side))
    return int(self.ends[runs - 1]) if runs else 0


def frequent_rows(
  seen: Sequence[Seen], budget: int, cost: Callable[[int, int], int]
) -> tuple[int, ...]:
  """How many rows each table gets: the ids seen most often, of all tables.

  Every id that was seen more than t times has a row, for the least t that
  fits the budget; of those seen t times, the same part in every table.

  Args:
    seen: how often, for each table.
    budget: of parameters.
    cost: of table i with so many rows; grows with them.

  Raises:
    InputError: the budget is too small.
  """
  levels = np.unique(np.concatenate([of_table.counts for of_table in seen]))

  def rows(level: int, part: float) -> tuple[int, ...]:
    """All ids above a level of counts, and a part of those at it."""
    found = []
    for of_table in seen:
      above = of_table.oftener(levels[level])
      there = of_table.oftener(levels[level], equal=True) - above
      found.append(max(int(above + part * there), 1))
    return tuple(found)

  def fits(level: int, part: float) -> bool:
    return sum(itertools.starmap(cost, enumerate(rows(level, part)))) <= budget

  if not fits(len(levels) - 1, 0.0):
    total = sum(itertools.starmap(cost, enumerate(rows(len(levels) - 1, 0.0))))
    raise _too_small(budget, total)
  level = bisect.bisect_left(
    range(len(levels)), True, key=lambda level: fits(level, 0.0)
  )
  low, high = 0.0, 1.0  # of the ids at this level; below it nothing fits
  if fits(level, high):
    return rows(level, high)
  for _ in range(40):
    middle = (low + high) / 2
    low, high = (middle, high) if fits(level, middle) else (low, middle)
  return rows(level, low)
