"""Arrivals of queries: a Poisson process, as absolute times.

Times are drawn, not pauses after an answer: a query that is answered late does
not delay the next one, and its wait is counted (an open loop).
"""

from collections.abc import Iterator, Sequence

import numpy as np

from dlrm_jax.queries.seeds import ARRIVALS

_BLOCK = 1024


def unit_arrivals(seed: Sequence[int]) -> Iterator[float]:
  """Times of a Poisson process of rate 1, rising and without end.

  Divided by a rate they are a process of that rate. So runs at several rates
  have the same queries, which only come closer together.

  >>> times = unit_arrivals([0])
  >>> next(times) < next(times)
  True
  """
  rng = np.random.default_rng([ARRIVALS, *seed])
  last = 0.0
  while True:
    times = last + np.cumsum(rng.exponential(size=_BLOCK))
    yield from times.tolist()
    last = float(times[-1])
