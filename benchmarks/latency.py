"""The latency of a call. Contenders of other libraries import this, too."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

TAIL = 'p99'


def quantiles(
  call: Callable[..., Any], inputs: Sequence[Sequence[Any]], calls: int
) -> dict[str, float]:
  """Milliseconds of calls, one after the other: p50 and p99.

  Args:
    call: ends when its result is there.
    inputs: arguments of calls, taken in turn.
    calls: how many.
  """
  seconds = []
  for arguments in itertools.islice(itertools.cycle(inputs), calls):
    start = time.perf_counter()
    call(*arguments)
    seconds.append(time.perf_counter() - start)
  middle, tail = 1e3 * np.percentile(seconds, (50, 99))
  return {'p50': float(middle), TAIL: float(tail)}
