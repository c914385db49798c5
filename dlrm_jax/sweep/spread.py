"""Mean and standard deviation of a metric over seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class SeedSpread(NamedTuple):
  """Mean over seeds, and standard deviation: nan for a single seed."""

  mean: float
  deviation: float

  def text(self, sign: str = '', digits: int = 4) -> str:
    """The spread as text.

    >>> SeedSpread(0.9856, 0.0003).text()
    '0.9856 ± 0.0003'
    """
    if math.isnan(self.mean):
      return 'undefined'
    mean = f'{self.mean:{sign}.{digits}f}'
    if math.isnan(self.deviation):
      return mean
    return f'{mean} ± {self.deviation:.{digits}f}'


def spread(values: Sequence[float]) -> SeedSpread:
  """Mean and deviation of values, one of each seed.

  Both are nan where there is no value, or one that is not finite.
  """
  if not values or not all(map(math.isfinite, values)):
    return SeedSpread(math.nan, math.nan)
  several = len(values) > 1
  return SeedSpread(
    statistics.fmean(values), statistics.stdev(values) if several else math.nan
  )


def seed_names(seeds: Sequence[int]) -> str:
  """Seeds in words.

  >>> seed_names([0, 1])
  'seeds 0, 1'
  """
  plural = 's' if len(seeds) > 1 else ''
  return f'seed{plural} {", ".join(map(str, seeds))}'
