"""The loads of a test, and the scenarios of MLPerf's LoadGen."""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import numpy as np

from dlrm_jax.errors import InputError
from dlrm_jax.load_test import rows as rows_of
from dlrm_jax.load_test.drive import Driver, Outcome, Request, outputs_of
from dlrm_jax.load_test.flags import Wanted
from dlrm_jax.load_test.summary import Row, row_of
from dlrm_jax.load_test.wire import Wire, connect
from dlrm_jax.queries.seeds import CONTENT, SIZES
from dlrm_jax.queries.tail import Bisection, allowed_misses

_REQUESTS = 64  # that are sent in turn
_STEPS = 6  # of a bisection
_LEAST = 100  # requests of one of its steps
_LEAST_SHARE = 1 / 16  # of the capacity; no lower rate is tried
_PERCENT = 99  # of scenario server
_SATURATED = 16  # requests under way that find the capacity
_OFFLINE = 8  # the same, of scenario offline
_DOUBLED = 5  # how often that capacity may be doubled
_WARM = 0.2  # seconds of requests that do not count


class Found(NamedTuple):
  """What a test found.

  Attributes:
    rows: the loads.
    result: a line with the result of a scenario; '': there is none.
    rate: the highest rate that keeps the target, of scenario `server`; None:
      it was not looked for.
  """

  rows: list[Row]
  result: str = ''
  rate: float | None = None


class Running:
  """A connection with requests to send."""

  def __init__(
    self, wire: Wire, driver: Driver, say: Callable[[str], None]
  ) -> None:
    self.wire, self.driver, self._say = wire, driver, say

  async def load(
    self, name: str, work: Awaitable[Outcome]
  ) -> tuple[Row, Outcome]:
    """A load, summed up with what the server says of it, and as it was."""
    self._say(name)
    before = await self.wire.statistics()
    outcome = await work
    after = await self.wire.statistics()
    return row_of(name, outcome, before, after), outcome


def _requests(
  wire: Wire, wanted: Wanted, inputs: rows_of.Inputs, most: int
) -> list[Request]:
  """The requests that are sent in turn.

  Raises:
    InputError: one is larger than the server takes, or the file of rows cannot
      be sent.
  """
  rng = np.random.default_rng([SIZES, wanted.seed])
  sizes = wanted.sizes.draw(rng, _REQUESTS).tolist()
  if most and max(sizes) > most:
    raise InputError(
      f'a request would have {max(sizes):,} rows, and the server takes at most '
      f'{most:,} (max_batch_size of its config)'
    )
  data = None if wanted.data is None else rows_of.read(wanted.data, inputs)
  found, rng = [], np.random.default_rng([CONTENT, wanted.seed])
  for number, size in enumerate(sizes):
    if data is None:
      tensors = rows_of.draw(inputs, size, rng)
    else:
      start = int(rng.integers(data.frame.height))
      tensors = data.part(start, size)
    found.append(Request(number, size, wire.encode(tensors)))
  return found


async def _single_stream(running: Running, wanted: Wanted) -> Found:
  row, _ = await running.load(
    'single stream', running.driver.closed(1, wanted.seconds)
  )
  p90 = row.times['p90']
  said = 'no answer' if p90 is None else f'{1e3 * p90:.3f} ms'
  return Found([row], f'single stream: p90 {said}')


async def _offline(running: Running, wanted: Wanted) -> Found:
  (under_way,) = wanted.concurrency or (_OFFLINE,)
  row, _ = await running.load(
    'offline', running.driver.closed(under_way, wanted.seconds)
  )
  return Found([row], f'offline: {row.throughput:,.0f} rows/s')


async def _server(running: Running, wanted: Wanted) -> Found:
  bound, seconds, driver = wanted.bound, wanted.seconds, running.driver
  target = f'p{_PERCENT} within {1e3 * bound:g} ms'

  async def tried(rate: float, count: int, draw: int = 0) -> tuple[Row, bool]:
    misses = allowed_misses(count, _PERCENT)
    stop = misses if draw == 0 and not wanted.rates else None
    row, outcome = await running.load(
      f'rate {rate:.4g}', driver.open(rate, count, bound, stop, draw)
    )
    return row, outcome.misses(bound) <= misses

  if wanted.rates:
    (rate,) = wanted.rates
    row, kept = await tried(rate, _count(rate, seconds))
    verdict = 'kept' if kept else 'missed'
    return Found([row], f'server: {target} {verdict} at {rate:g} requests/s')
  full, _ = await running.load(
    f'concurrency {_SATURATED}', driver.closed(_SATURATED, seconds)
  )
  rows, most = [full], full.requests / full.seconds
  if not most:
    return Found(rows, 'server: no answer')
  count = _count(most, seconds)
  for _ in range(_DOUBLED):  # the server may join more than came at once
    row, kept = await tried(most, count)
    rows.append(row)
    if not kept:
      break
    most *= 2
  search = Bisection(_LEAST_SHARE * most, most, _STEPS)
  while (rate := search.rate) is not None:
    row, kept = await tried(rate, count)
    rows.append(row)
    search.tell(kept)
  best = search.kept
  if not best:
    return Found(rows, f'server: no rate keeps {target}', 0.0)
  row, kept = await tried(best, _count(best, seconds), draw=1)
  rows.append(row)
  again = 'again' if kept else 'not again'
  return Found(
    rows,
    f'server: {target} kept up to {best:.4g} requests/s, {again} with other '
    f'arrivals; {row.throughput:,.0f} rows/s',
    best,
  )


def _count(rate: float, seconds: float) -> int:
  return max(_LEAST, math.ceil(rate * seconds))


async def _plain(running: Running, wanted: Wanted) -> Found:
  """The loads that are named."""
  rows, seconds = [], wanted.seconds
  for number in wanted.concurrency:
    work = running.driver.closed(number, seconds)
    rows.append((await running.load(f'concurrency {number}', work))[0])
  for rate in wanted.rates:
    work = running.driver.open(rate, math.ceil(rate * seconds))
    rows.append((await running.load(f'rate {rate:g}', work))[0])
  return Found(rows)


def _check_answered(warm: Outcome, wanted: Wanted) -> None:
  """Raises an `InputError` if no request was answered."""
  faults = {**warm.failed, **warm.wrong}
  if faults and not warm.samples:
    raise InputError(
      f'{wanted.url}: model {wanted.model!r} answers no request: '
      f'{next(iter(faults))}'
      + ('; give rows that it takes, with --data' if not wanted.data else '')
    )


SCENARIOS: Mapping[str, Callable[[Running, Wanted], Awaitable[Found]]] = {
  '': _plain,
  'single_stream': _single_stream,
  'offline': _offline,
  'server': _server,
}
"""How a test goes, by the name of its scenario."""


async def run(wanted: Wanted, say: Callable[[str], None]) -> Found:
  """Runs a test.

  Args:
    wanted: what to test.
    say: told about each load before it begins.

  Raises:
    InputError: there is no such server or model, or rows cannot be sent.
  """
  wire, metadata = await connect(wanted)
  try:
    config = await wire.config()
    inputs = rows_of.inputs_of(metadata, config)
    most = int(config.get('max_batch_size', 0))
    requests = _requests(wire, wanted, inputs, most)
    driver = Driver(
      *(wire, requests, outputs_of(metadata), wanted.seed), retry=wanted.retry
    )
    _check_answered(await driver.closed(1, _WARM), wanted)
    return await SCENARIOS[wanted.scenario](Running(wire, driver, say), wanted)
  finally:
    await wire.close()
