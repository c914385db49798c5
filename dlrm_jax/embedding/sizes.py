"""Sizes of smaller tables: the most buckets, rank or width for a budget.

A budget is a number of parameters: elements of tables and of the layers of
encodings. Everything here is arithmetic on a few integers.
"""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from dlrm_jax.errors import InputError

Cost = Callable[[tuple[int, ...]], int]
"""Numbers of buckets -> number of parameters; linear in each."""


def next_coprime(number: int, others: Sequence[int]) -> int:
  """The least number from `number` on that is coprime to all others.

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
  buckets: list[int] = []
  while len(buckets) < parts:
    left = -(-ids // math.prod(buckets))
    root = max(math.floor(left ** (1 / (parts - len(buckets)))), 1)
    while root ** (parts - len(buckets)) < left:
      root += 1
    buckets.append(next_coprime(root, buckets) if coprime else root)
  return tuple(buckets)


def _numbers(first: int, last: int) -> Iterator[int]:
  """Numbers from first to last, with growing gaps of about 1 %."""
  number = first
  while number <= last:
    yield number
    number = max(number + 1, math.floor(1.01 * number))


def least_budget(
  ids: int, parts: int, cost: Cost, coprime: bool = False
) -> int:
  """The fewest parameters with which k partitions distinguish all ids."""

  def least(others: tuple[int, ...]) -> int:
    first = -(-ids // math.prod(others))
    first = next_coprime(first, others) if coprime else first
    return cost((first, *others))

  return min(map(least, _others(ids, parts, coprime)))


def _others(ids: int, parts: int, coprime: bool) -> Iterator[tuple[int, ...]]:
  """Buckets of all partitions but the first, from few buckets to many."""
  seen: set[tuple[int, ...]] = set()
  for together in _numbers(1, ids):
    others = small_buckets(together, parts - 1, coprime)
    if others not in seen:
      seen.add(others)
      yield others


def large_and_small(
  ids: int, parts: int, budget: int, cost: Cost, coprime: bool = False
) -> tuple[int, ...]:
  """The first partition as large as possible, the others just large enough.

  Ids that share a bucket of the first partition must differ in the others. So
  the others are small, and few ids share a row of the first.

  Args:
    ids: number of ids to distinguish, n.
    parts: number of partitions, k, 2 or more.
    budget: number of parameters.
    cost: parameters by numbers of buckets.
    coprime: whether numbers of buckets must be pairwise coprime.

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
  """The largest whole number, 1 or more, whose cost fits into a budget.

  Args:
    budget: number of parameters.
    cost: parameters by the number; grows with it.

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

  d_i = D (n_min / n_i)^alpha, as ids of large tables are seen less often. Rows
  whose width is a power of two can be packed (`rows.packed`). Source: A.
  Ginart et al., arXiv 1909.11810, with 1 / n_i for the popularity.

  Args:
    rows: number of rows of each table, n_i.
    dim: the largest width, D.
    alpha: exponent of the power law; 0: all widths are D.

  >>> mixed_widths((100, 10_000, 1_000_000), 16, 0.3)
  (16, 4, 1)
  """
  fewest = min(rows)
  exact = (dim * (fewest / n) ** alpha for n in rows)
  return tuple(
    min(max(2 ** round(math.log2(max(d, 1))), 1), dim) for d in exact
  )


def mixed_cost(rows: Sequence[int], dim: int, widths: Sequence[int]) -> int:
  """Parameters of tables and projections; width D needs no projection."""
  return sum(
    n * d + (d * dim if d < dim else 0)
    for n, d in zip(rows, widths, strict=True)
  )


_STEEPEST = 32.0  # with it, all but the smallest tables have width 1


def least_mixed(rows: Sequence[int], dim: int) -> int:
  """The fewest parameters that mixed widths can reach."""
  return mixed_cost(rows, dim, mixed_widths(rows, dim, _STEEPEST))


def solve_alpha(rows: Sequence[int], dim: int, budget: int) -> float:
  """About the least exponent, so the widest tables, that fits a budget.

  Projections make the cost slightly uneven where n is not far above D.

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
  """Ids are not sorted by how often they are seen."""


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
  """Counts of the ids of a table, from the most frequent id on.

  Hundreds of millions of ids have only thousands of different counts, so they
  are stored as runs of ids with equal counts.

  Attributes:
    counts: f64[k], the count of each run, falling.
    ends: i64[k], number of ids of this run and those before it.
  """

  counts: np.ndarray
  ends: np.ndarray

  @classmethod
  def of(cls, pieces: Iterable[np.ndarray]) -> 'Seen':
    """The runs of counts that arrive in pieces.

    Raises:
      NotFalling: a count is larger than the one before it.
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
    """Sums of counts, for two features that share ids."""
    ends = np.union1d(self.ends, other.ends)
    return Seen(self._at(ends) + other._at(ends), ends)

  def _at(self, ends: np.ndarray) -> np.ndarray:
    """Counts of the ids just before `ends`; 0 behind the last id."""
    return np.append(self.counts, 0.0)[np.searchsorted(self.ends, ends)]

  def oftener(self, count: float, equal: bool = False) -> int:
    """Number of ids with larger counts; with `equal` also equal ones."""
    side = 'right' if equal else 'left'
    runs = int(np.searchsorted(-self.counts, -count, side))
    return int(self.ends[runs - 1]) if runs else 0


def frequent_rows(
  seen: Sequence[Seen], budget: int, cost: Callable[[int, int], int]
) -> tuple[int, ...]:
  """Rows of each table, if the most frequent ids of all tables get rows.

  Every id that was seen more than t times gets a row, for the least t that
  fits the budget; of those seen t times, the same fraction in every table.

  Args:
    seen: counts of the ids of each table.
    budget: number of parameters.
    cost: (table number, rows) -> parameters; grows with the rows.

  Raises:
    InputError: the budget is too small.
  """
  levels = np.unique(np.concatenate([of_table.counts for of_table in seen]))

  def rows(level: int, part: float) -> tuple[int, ...]:
    """For each table, ids seen more often than a level, and a part at it."""
    result = []
    for of_table in seen:
      above = of_table.oftener(levels[level])
      at_level = of_table.oftener(levels[level], equal=True) - above
      result.append(max(int(above + part * at_level), 1))
    return tuple(result)

  def fits(level: int, part: float) -> bool:
    return sum(itertools.starmap(cost, enumerate(rows(level, part)))) <= budget

  if not fits(len(levels) - 1, 0.0):
    total = sum(itertools.starmap(cost, enumerate(rows(len(levels) - 1, 0.0))))
    raise _too_small(budget, total)
  level = bisect.bisect_left(
    range(len(levels)), True, key=lambda level: fits(level, 0.0)
  )
  low, high = 0.0, 1.0  # fraction of the ids at this level
  if fits(level, high):
    return rows(level, high)
  for _ in range(40):
    middle = (low + high) / 2
    low, high = (middle, high) if fits(level, middle) else (low, middle)
  return rows(level, low)
