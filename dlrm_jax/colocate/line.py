"""The queries that wait for an engine, and how its threads take them.

Arrivals are known beforehand, as absolute times. So no thread makes them: a
thread that is free takes the next piece of a query in order of arrival, and
sleeps until it has arrived. This is a first-come, first-served line, and costs
the cores of the engine nothing.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from dlrm_jax.queries.arrivals import unit_arrivals

_LOOK = 0.02  # seconds between two looks whether to stop


class Load(NamedTuple):
  """Queries that an engine is to serve.

  Attributes:
    begin: time of the start, by `time.monotonic`, which all processes share.
    rate: queries a second; infinite: all wait at the start.
    count: number of queries; None: without end, until the engine is told.
    bound: seconds; a query that takes longer is a miss.
    misses: more of them end the load at once.
    draw: number of the draw of its arrivals.
  """

  begin: float
  rate: float
  draw: int = 0
  count: int | None = None
  bound: float = math.inf
  misses: int = 0


class Served(NamedTuple):
  """What has become of a load.

  Attributes:
    began: time of the first piece taken.
    ended: time of the last piece finished.
    queries: number of queries that were answered.
    latencies: seconds from arrival to answer, f64[queries]; empty where the
      load had no end.
    missed: whether it was ended for its misses.
  """

  began: float
  ended: float
  queries: int
  latencies: np.ndarray
  missed: bool


class Piece(NamedTuple):
  """A part of a query, which one thread computes.

  Attributes:
    query: number of the query.
    arrival: time at which the query arrives.
    items: number of items.
    first: number of items before it, in all pieces.
  """

  query: int
  arrival: float
  items: int
  first: int


def parts_of(items: int, most: int) -> list[int]:
  """Sizes of the pieces of a query.

  >>> parts_of(70, 32), parts_of(32, 32)
  ([32, 32, 6], [32])
  """
  whole, rest = divmod(items, most)
  return [most] * whole + [rest] * (rest > 0)


class Line:
  """The line of a load; threads take pieces of it and finish them."""

  def __init__(
    self,
    load: Load,
    sizes: np.ndarray,
    most: int,
    seed: tuple[int, ...],
    stopped: Callable[[], bool] = lambda: False,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
  ) -> None:
    """Begins a line.

    Args:
      load: the load.
      sizes: i64[n], items of the queries, in turn.
      most: most items of a piece.
      seed: of the arrivals, with the number of the draw.
      stopped: whether a load without end is to end.
      now: the clock.
      sleep: waits for so many seconds of it.
    """
    self._load, self._stopped = load, stopped
    self._now, self._sleep = now, sleep
    self._pieces = self._cut(sizes, most, seed)
    self._left: dict[int, int] = {}
    self._lock = threading.Lock()
    self._over = False
    self._looked = load.begin
    self._missed = self._answered = 0
    self._latencies: list[float] = []
    self._began, self._ended = math.inf, -math.inf

  def _cut(
    self, sizes: np.ndarray, most: int, seed: tuple[int, ...]
  ) -> Iterator[Piece]:
    """All pieces, in order of arrival."""
    begin, rate, draw, count = self._load[:4]
    arrivals, first = unit_arrivals((*seed, draw)), 0
    for query, at in enumerate(itertools.islice(arrivals, count)):
      parts = parts_of(int(sizes[query % len(sizes)]), most)
      self._left[query] = len(parts)
      for items in parts:
        yield Piece(query, begin + at / rate, items, first)
        first += items

  def take(self) -> Piece | None:
    """The next piece, once it has arrived; None: there is none."""
    with self._lock:
      piece = None if self._is_over() else next(self._pieces, None)
      if piece is None:
        self._over = True
        return None
    while (ahead := piece.arrival - self._now()) > 0:
      self._sleep(min(ahead, _LOOK))
      if self._is_over():
        return None
    with self._lock:
      self._began = min(self._began, self._now())
    return piece

  def _is_over(self) -> bool:
    endless = self._load.count is None
    if endless and not self._over and self._now() - self._looked > _LOOK:
      self._looked = self._now()
      self._over = self._stopped()
    return self._over

  def finish(self, piece: Piece) -> None:
    """Says that a piece is computed."""
    now = self._now()
    with self._lock:
      self._ended = max(self._ended, now)
      self._left[piece.query] -= 1
      if self._left[piece.query]:
        return
      del self._left[piece.query]
      self._answered += 1
      latency = now - piece.arrival
      if self._load.count is not None:
        self._latencies.append(latency)
      self._missed += latency > self._load.bound
      self._over = self._over or self._missed > self._load.misses

  def work(self, compute: Callable[[Piece], object]) -> None:
    """Computes pieces until there are none; what a thread does."""
    try:
      while (piece := self.take()) is not None:
        compute(piece)
        self.finish(piece)
    finally:
      self._over = True  # where one thread fails, the others end

  def served(self) -> Served:
    """What has become of the load, once all threads have ended."""
    return Served(
      *(self._began, self._ended, self._answered),
      np.array(self._latencies, np.float64),
      self._missed > self._load.misses,
    )
