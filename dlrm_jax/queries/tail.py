"""Percentiles of latencies, and the highest rate that keeps one.

A percentile is the least value that so many of all values do not exceed
(nearest rank). So "the 95th percentile is at most the bound" means that at most
one query in twenty takes longer, and can be told before all have ended.
"""

import math
from collections.abc import Callable

import numpy as np


def percentile(values: np.ndarray, percent: float) -> float:
  """The percentile of values f[n], of which there is one at least.

  >>> percentile(np.arange(1, 101), 95), percentile(np.array([3.0]), 99)
  (95.0, 3.0)
  """
  place = len(values) - allowed_misses(len(values), percent) - 1
  return float(np.partition(values, place)[place])


def allowed_misses(count: int, percent: float) -> int:
  """How many of `count` queries may take longer than the bound.

  >>> allowed_misses(200, 95), allowed_misses(10, 99)
  (10, 0)
  """
  return count - math.ceil(count * percent / 100 - 1e-9)


def highest_rate(
  keeps: Callable[[float], bool], least: float, most: float, steps: int
) -> float:
  """The highest rate that keeps a bound, found by bisection.

  Args:
    keeps: whether a rate keeps it; if it does, so do lower ones.
    least: no lower rate is tried.
    most: a rate that is known not to keep it.
    steps: most rates to try: the result is within most / 2^steps.

  Returns:
    The highest rate that was found to keep it; 0: none did.

  >>> highest_rate(lambda rate: rate <= 3, 1, 4, 6)
  3.0
  """
  kept = 0.0
  for _ in range(steps):
    rate = (kept + most) / 2
    if rate < least:
      break
    if keeps(rate):
      kept = rate
    else:
      most = rate
  return kept
