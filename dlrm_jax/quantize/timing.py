"""Median times of calls that take turns."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Key = TypeVar('Key', bound=Hashable)

_LEAST_ROUNDS = 20


def medians(
  calls: Mapping[Key, Callable[[], object]], seconds: float, rounds: int
) -> dict[Key, float]:
  """Median seconds of calls, by name.

  They are called in turn, so that what else the machine does slows down all.
  Each is called once before, which compiles it.

  Args:
    calls: functions that return when all is done.
    seconds: after which no round begins, but for a few at least.
    rounds: most rounds.
  """
  for call in calls.values():
    call()
  found: dict[Key, list[float]] = {name: [] for name in calls}
  end = time.perf_counter() + seconds
  for done in range(rounds):
    if done >= _LEAST_ROUNDS and time.perf_counter() > end:
      break
    for name, call in calls.items():
      start = time.perf_counter()
      call()
      found[name].append(time.perf_counter() - start)
  return {name: statistics.median(taken) for name, taken in found.items()}
