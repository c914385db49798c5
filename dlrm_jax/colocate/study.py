"""What company costs: rates and latencies of an engine, alone and with others.

First, times of a batch, the other engines being fully loaded, in several rounds
over the numbers of engines, so that a machine that changes its speed changes
all of them. Then, for each number of engines, the rate that the engine can
compute at all; and by bisection the highest rate that keeps the percentile of
latencies within the target, where all engines have the same rate. At last, for
all numbers of engines, latencies at one rate, the lowest of those found, with
other draws of arrivals than those of the bisection.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dlrm_jax.colocate.company import Company
from dlrm_jax.colocate.engine import Part, Times
from dlrm_jax.colocate.line import Served
from dlrm_jax.colocate.models import Bytes, Spec
from dlrm_jax.errors import InputError
from dlrm_jax.machine import free_memory
from dlrm_jax.queries.seeds import SIZES
from dlrm_jax.queries.sizes import Sizes
from dlrm_jax.queries.tail import Bisection, allowed_misses, percentile
from dlrm_jax.text import human

STEPS = 5
"""Rates that a bisection tries: the result is within 1/32 of the capacity."""

_ROUNDS = 4
"""How often batches are timed with each number of engines."""

LEAST_SHARE = 1 / 8
"""Share of the capacity; no lower rate is tried, as it would take long."""

_LEAST = 100  # queries of a measurement
_PROCESS_BYTES = 600_000_000  # of an engine, beside its tables
_START, _START_RATE = 8.0, 0.5e9  # seconds of a start, and bytes made in one
_MEAN_STEP = 1.3
"""Duration of a step over that of as many queries at the highest rate."""


class Wanted(NamedTuple):
  """What to measure.

  Attributes:
    specs: the models.
    copies: numbers of engines, rising.
    cores: groups of cores; engine k has group k modulo their number.
    sizes: items of a query.
    split: most items of a piece of a query.
    exponent: of the power law of ids.
    rate: queries a second of each engine; None: the highest is looked for.
    bounds: target of the latency in seconds, by name of the model; infinite
      where a rate is given and no target.
    percent: the percentile that must keep it.
    seconds: duration of a measurement.
    seed: of all draws.
  """

  specs: Sequence[Spec]
  copies: Sequence[int]
  cores: Sequence[tuple[int, ...]]
  sizes: Sizes
  split: int
  exponent: float
  rate: float | None
  bounds: Mapping[str, float]
  percent: float
  seconds: float
  seed: int


class Tail(NamedTuple):
  """Latencies at a rate.

  Attributes:
    rate: queries a second of each engine.
    queries: number of queries.
    p50: percentile, in seconds; the others likewise.
    missed: share of the queries that took longer than the target.
  """

  rate: float
  queries: int
  p50: float
  p95: float
  p99: float
  missed: float


class Point(NamedTuple):
  """A model with a number of engines.

  Attributes:
    spec: the model.
    engines: number of engines under load.
    times: of a batch.
    capacity: queries a second of an engine, if they never wait.
    rate: the highest rate of each engine that keeps the target; 0: even an
      eighth of the capacity does not; None: it was not looked for.
    tail: latencies at the rate of all points of the model; None: it was not
      measured yet, or there is no such rate.
  """

  spec: Spec
  engines: int
  times: Times
  capacity: float
  rate: float | None = None
  tail: Tail | None = None


class Study(NamedTuple):
  """What was measured.

  Attributes:
    wanted: what was asked for.
    bytes: memory of the tables of each model.
    points: what is measured so far, by model.
  """

  wanted: Wanted
  bytes: Mapping[Spec, Bytes]
  points: Mapping[Spec, Sequence[Point]]

  @property
  def by_name(self) -> dict[str, list[Spec]]:
    """The models that have points, by name."""
    found: dict[str, list[Spec]] = {}
    for spec in self.wanted.specs:
      if self.points.get(spec):
        found.setdefault(spec.name, []).append(spec)
    return found

  def is_complete(self, spec: Spec) -> bool:
    """Whether nothing of a model is left to measure."""
    points = self.points.get(spec, ())
    if len(points) < len(self.wanted.copies):
      return False
    given = self.wanted.rate is not None
    return all(p.tail for p in points) or not (
      given or any(p.rate for p in points)
    )

  @property
  def left(self) -> Wanted:
    """What is left to measure."""
    specs = [x for x in self.wanted.specs if not self.is_complete(x)]
    return self.wanted._replace(specs=specs)

  @property
  def missing(self) -> int:
    """Number of points that are not measured yet."""
    all_of = len(self.wanted.specs) * len(self.wanted.copies)
    return all_of - sum(map(len, self.points.values()))


def cores_text(cores: Sequence[tuple[int, ...]]) -> str:
  """Groups of cores as the flag has them.

  >>> cores_text([(0,), (1, 2)])
  '0,1+2'
  """
  return ','.join('+'.join(map(str, group)) for group in cores)


def steps_of(wanted: Wanted) -> int:
  """How often `measure` tells its `say`, for all models."""
  search = STEPS if wanted.rate is None else 0
  each = max(wanted.copies) + len(wanted.copies) * (1 + _ROUNDS + search)
  return len(wanted.specs) * each


def duration_of(wanted: Wanted, bytes_of: Mapping[Spec, Bytes]) -> float:
  """Estimated seconds of all measurements."""
  each = 2.0 * wanted.seconds  # times and capacity
  if wanted.rate is None:
    each += STEPS * _MEAN_STEP * wanted.seconds
  each += 2.0 * wanted.seconds  # latencies, at a rate that may be far below
  made = sum(sum(bytes_of[spec]) for spec in wanted.specs)
  starts = len(wanted.specs) * _START + made / _START_RATE
  points = len(wanted.specs) * len(wanted.copies)
  return max(wanted.copies) * starts + points * each


def check_room(
  wanted: Wanted, bytes_of: Mapping[Spec, Bytes], free: int | None = None
) -> None:
  """Raises an `InputError` if the largest company does not fit into memory."""
  engines = max(wanted.copies)
  free = free_memory() if free is None else free
  for spec in wanted.specs:
    kept, made = bytes_of[spec]
    needed = engines * (kept + _PROCESS_BYTES) + made
    if needed > free:
      raise InputError(
        f'{spec}: {engines} engines need {human(needed)}, {human(kept)} each '
        f'for tables, {human(_PROCESS_BYTES)} for the process'
        + (f', and {human(made)} while one is made' if made else '')
        + f'; there are {human(free)}: choose fewer --copies or a smaller '
        '--scale'
      )


def engines_text(number: int) -> str:
  """A number of engines in words.

  >>> engines_text(1), engines_text(2)
  ('1 engine', '2 engines')
  """
  return f'{number} engine{"s" if number > 1 else ""}'


def _tail(served: Served, rate: float, bound: float) -> Tail:
  values = served.latencies
  return Tail(
    rate=rate,
    queries=served.queries,
    p50=percentile(values, 50),
    p95=percentile(values, 95),
    p99=percentile(values, 99),
    missed=float(np.mean(values > bound)),
  )


def _rate_of(served: Served) -> float:
  return served.queries / (served.ended - served.began)


def _capacity(company: Company, wanted: Wanted, times: Times, n: int) -> float:
  """Queries a second of an engine whose queries all wait at the start."""
  rng = np.random.default_rng([SIZES, wanted.seed])
  batches = np.ceil(wanted.sizes.draw(rng, 1000) / times.rows).mean()
  cores = len(wanted.cores[0])
  guess = cores / (batches * times.whole.wall)
  return _rate_of(company.serve(math.inf, _count(guess, wanted), n)[0])


def _count(rate: float, wanted: Wanted) -> int:
  return max(_LEAST, math.ceil(rate * wanted.seconds))


def _times(
  company: Company, wanted: Wanted, say: Callable[[str], None]
) -> dict[int, Times]:
  """Times of batches by number of engines: medians of the rounds."""
  found: dict[int, list[Times]] = {number: [] for number in wanted.copies}
  for _ in range(_ROUNDS):
    for number, rounds in found.items():
      say(f'{engines_text(number)}: batches')
      rounds.append(company.times(wanted.seconds / _ROUNDS, number)[0])
  return {number: _median(rounds) for number, rounds in found.items()}


def _median(rounds: Sequence[Times]) -> Times:
  def of(name: str) -> Part:
    parts = [getattr(times, name) for times in rounds]
    return Part(*map(statistics.median, zip(*parts, strict=True)))

  return rounds[0]._replace(
    ended=rounds[-1].ended,
    calls=sum(times.calls for times in rounds),
    whole=of('whole'),
    lookup=of('lookup'),
    layers=of('layers'),
  )


def _best_rate(
  company: Company, wanted: Wanted, point: Point, say: Callable[[str], None]
) -> float:
  bound, percent = wanted.bounds[point.spec.name], wanted.percent
  count = _count(point.capacity, wanted)
  misses = allowed_misses(count, percent)

  search = Bisection(point.capacity * LEAST_SHARE, point.capacity, STEPS)
  while (rate := search.rate) is not None:
    served, _ = company.serve(rate, count, point.engines, bound, misses)
    say(f'{rate:.4g} queries/s {"missed" if served.missed else "kept"}')
    search.tell(not served.missed)
  return search.kept


def measure(
  wanted: Wanted, spec: Spec, say: Callable[[str], None]
) -> Iterator[list[Point]]:
  """Measures a model.

  Args:
    wanted: what to measure.
    spec: the model.
    say: told about each step.

  Yields:
    The points so far, after each; once more with latencies.
  """
  with Company(
    *(spec, wanted.cores, wanted.split, wanted.sizes),
    *(wanted.exponent, wanted.seed),
  ) as company:
    for number in range(max(wanted.copies)):
      ready = company.add()
      held = f'{ready.seconds:.1f} s, {human(ready.bytes)}'
      say(f'engine {number + 1} ready: {held}')
    points = []
    for number, times in _times(company, wanted, say).items():
      capacity = _capacity(company, wanted, times, number)
      point = Point(spec, number, times, capacity)
      if wanted.rate is None:
        best = _best_rate(company, wanted, point, say)
        point = point._replace(rate=best)
      points.append(point)
      yield points
    found = [point.rate for point in points if point.rate]
    rate = wanted.rate or min(found, default=None)
    if rate is None:
      return
    bound = wanted.bounds[spec.name]
    for place, point in enumerate(points):
      engines = engines_text(point.engines)
      say(f'{engines}: latencies at {rate:.4g} queries/s')
      count = _count(rate, wanted)
      served, _ = company.serve(rate, count, point.engines, draw=1)
      points[place] = point._replace(tail=_tail(served, rate, bound))
    yield points
