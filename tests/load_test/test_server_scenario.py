"""The scenario that looks for a rate, with a queue in the place of a server."""

import asyncio
import math

import numpy as np
import pytest

pytest.importorskip('tritonclient')

from dlrm_jax.load_test.drive import Outcome, Sample
from dlrm_jax.load_test.flags import parser_of, wanted_of
from dlrm_jax.load_test.loads import SCENARIOS, Running
from dlrm_jax.queries.arrivals import unit_arrivals
from dlrm_jax.queries.tail import percentile

SERVICE = 0.01


class Queue:
  """A server that takes as long for every request, in virtual time.

  Attributes:
    tried: rates of the open loops.
    joins: how many times more it can do of what comes at once.
  """

  def __init__(self, joins=1):
    self.tried, self.joins = [], joins

  async def closed(self, concurrency, seconds):
    count = round(seconds / SERVICE)
    samples = [Sample(1, 0.0, concurrency * SERVICE, 0.0)] * count
    return Outcome(seconds, samples, 0, 0, {}, {})

  async def open(self, rate, count, bound=math.inf, misses=None, draw=0):
    self.tried.append(rate)
    found, free, late = [], 0.0, 0
    for at, _ in zip(unit_arrivals((0, draw)), range(count), strict=False):
      if misses is not None and late > misses:
        break
      free = max(free, at / rate) + SERVICE / self.joins
      found.append(Sample(1, 0.0, free - at / rate, 0.0))
      late += found[-1].latency > bound
    return Outcome(free, found, 0, 0, {}, {})


class Silent:
  """A connection to a server without statistics."""

  async def statistics(self):
    return None


def found_with(queue, *flags):
  said = []
  flags = parser_of('').parse_args(
    ['--url=u', '--model=m', '--scenario=server', *flags]
  )
  running = Running(Silent(), queue, said.append)
  return asyncio.run(SCENARIOS['server'](running, wanted_of(flags)))


def best_rate(queue, bound, count):
  """The highest rate of a thousand that keeps p99, with the same arrivals."""

  async def keeps(rate):
    samples = (await queue.open(rate, count)).samples
    return percentile(np.array([x.latency for x in samples]), 99) <= bound

  most = queue.joins / SERVICE
  rates = np.linspace(most / 100, most, 100)
  return max(rate for rate in rates if asyncio.run(keeps(rate)))


@pytest.mark.parametrize('joins', [1, 3])
def test_the_highest_rate_of_a_queue_is_found(joins):
  """Also beyond what requests one after the other let expect."""
  queue = Queue(joins)
  found = found_with(queue, '--sla_ms=50', '--seconds=20')
  best = best_rate(Queue(joins), 0.05, 20 * round(1 / SERVICE))
  assert found.rate == pytest.approx(best, rel=0.05)
  assert 'server: p99 within 50 ms kept up to' in found.result
  assert found.rows[-1].load == f'rate {found.rate:.4g}'


def test_a_target_below_the_service_is_kept_at_no_rate():
  found = found_with(Queue(), '--sla_ms=9', '--seconds=20')
  assert found.rate == 0
  assert 'no rate keeps p99 within 9 ms' in found.result


@pytest.mark.parametrize(('rate', 'verdict'), [(20, 'kept'), (110, 'missed')])
def test_a_given_rate_is_judged(rate, verdict):
  found = found_with(Queue(), '--sla_ms=50', '--seconds=20', f'--rate={rate}')
  assert f'p99 within 50 ms {verdict} at {rate} requests/s' in found.result
  assert found.rate is None
  assert found.rows[0].requests == 20 * rate  # all are sent
