"""Percentiles of latencies, and the highest rate that keeps one.

A percentile is the least value that so many of all values do not exceed
(nearest rank). So "the 95th percentile is at most the bound" means that at most
one query in twenty takes longer, and can be told before all have ended.
"""

import math

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


class Bisection:
  """Looks for the highest rate that keeps a bound, as all lower rates do.

  >>> search = Bisection(least=1, most=4, steps=6)
  >>> while (rate := search.rate) is not None:
  ...   search.tell(rate <= 3)
  >>> search.kept
  3.0

  Attributes:
    kept: the highest rate that was found to keep it; 0: none was.
  """

  def __init__(self, least: float, most: float, steps: int) -> None:
    """Begins to look.

    Args:
      least: no lower rate is tried.
      most: a rate that does not keep the bound.
      steps: most rates to try: the result is within most / 2^steps.
    """
    self._least, self._most, self._steps = least, most, steps
    self.kept = 0.0

  @property
  def rate(self) -> float | None:
    """The rate to try next; None: no more are tried."""
    middle = (self.kept + self._most) / 2
    return middle if self._steps and middle >= self._least else None

  def tell(self, keeps: bool) -> None:
    """Says whether that rate keeps the bound."""
    middle = (self.kept + self._most) / 2
    self._steps -= 1
    if keeps:
      self.kept = middle
    else:
      self._most = middle
