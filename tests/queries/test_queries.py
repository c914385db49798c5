"""When queries come, how large they are, and the rate that keeps a bound."""

import itertools
import math

import numpy as np
import pytest

from dlrm_jax.colocate.line import Line, Load
from dlrm_jax.errors import InputError
from dlrm_jax.queries.arrivals import unit_arrivals
from dlrm_jax.queries.sizes import read_sizes
from dlrm_jax.queries.tail import Bisection, allowed_misses, percentile


def first(count, *seed):
  return np.array(list(itertools.islice(unit_arrivals(seed), count)))


def test_arrivals_are_a_poisson_process_of_rate_1():
  times = first(100_000, 3)
  pauses = np.diff(times, prepend=0)
  assert (pauses > 0).all()
  assert pauses.mean() == pytest.approx(1, abs=0.01)
  assert pauses.std() == pytest.approx(1, abs=0.015)
  # Independent: as many arrivals in a unit of time as Poisson's law has.
  counts = np.bincount(times.astype(int))[:-1]
  assert counts.mean() == pytest.approx(1, abs=0.02)
  assert counts.var() == pytest.approx(1, abs=0.03)
  assert np.corrcoef(pauses[1:], pauses[:-1])[0, 1] == pytest.approx(
    0, abs=0.01
  )


def test_a_seed_has_its_own_arrivals_and_always_the_same():
  np.testing.assert_array_equal(first(3000, 1, 2), first(3000, 1, 2))
  assert not np.allclose(first(10, 1, 2), first(10, 1, 3))


def drawn(name, count=100_000):
  return read_sizes(name).draw(np.random.default_rng(0), count)


def test_normal_sizes_have_the_published_mean_and_deviation():
  sizes = drawn('normal')
  # Rounded down: half an item less than 165.
  assert sizes.mean() == pytest.approx(164.5, abs=0.2)
  assert sizes.std() == pytest.approx(16, abs=0.2)


def test_log_normal_sizes_have_the_published_median_and_spread():
  sizes = drawn('lognormal')
  assert np.median(sizes) == pytest.approx(math.exp(5.1) - 0.5, abs=1)
  assert np.log(sizes).std() == pytest.approx(0.2, abs=0.002)
  assert sizes.min() >= 1
  assert sizes.max() <= 1024


def test_sizes_of_mlperf_have_its_quantiles():
  values, counts = np.unique(drawn('mlperf'), return_counts=True)
  assert values.tolist() == [100, 200, 300, 400, 500, 600, 700]
  shares = counts / counts.sum()
  expected = np.array([2, 12, 2, 1, 1, 1, 1]) / 20
  np.testing.assert_allclose(shares, expected, atol=0.005)


def test_sizes_come_from_a_file_or_are_a_number(tmp_path):
  (tmp_path / 'sizes.txt').write_text('10\n10\n 40\n90\n')
  values, counts = np.unique(
    drawn(str(tmp_path / 'sizes.txt')), return_counts=True
  )
  assert values.tolist() == [10, 40, 90]
  np.testing.assert_allclose(counts / 1e5, [0.5, 0.25, 0.25], atol=0.01)
  assert set(drawn('7').tolist()) == {7}


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('3\nmany\n', ['line 2', "'many'"]),
    ('3\n0\n', ['line 2', "'0'", '1 ...']),
    ('3\n\n4\n', ['line 2', "''"]),
    ('', ['empty', 'a size on each line']),
  ],
)
def test_a_bad_file_of_sizes_is_refused_with_its_line(text, words, tmp_path):
  path = tmp_path / 'sizes.txt'
  path.write_text(text)
  with pytest.raises(InputError) as error:
    read_sizes(str(path))
  for word in (str(path), *words):
    assert word in str(error.value)


@pytest.mark.parametrize('text', ['gauss', '0', 'no/such/file'])
def test_sizes_of_no_law_are_refused(text):
  with pytest.raises(InputError, match=f'--sizes={text}'):
    read_sizes(text)


@pytest.mark.parametrize('percent', [50, 95, 99, 99.9])
@pytest.mark.parametrize('count', [1, 20, 99, 1000])
def test_a_percentile_keeps_a_bound_if_and_only_if_few_enough_miss_it(
  percent, count
):
  values = np.random.default_rng(count).permutation(np.arange(1.0, count + 1))
  for bound in np.arange(0, count + 2):
    few = (values > bound).sum() <= allowed_misses(count, percent)
    assert few == (percentile(values, percent) <= bound)


def highest_rate(keeps, least, most, steps):
  search, tried = Bisection(least, most, steps), []
  while (rate := search.rate) is not None:
    tried.append(rate)
    search.tell(keeps(rate))
  return search.kept, tried


def test_the_highest_rate_is_found_to_a_power_of_two():
  found, tried = highest_rate(lambda rate: rate <= 61.7, 1, 100, 10)
  assert 61.7 - 100 / 2**10 <= found <= 61.7
  assert len(tried) == 10


def test_rates_below_the_least_are_not_tried():
  found, tried = highest_rate(lambda rate: False, 12.5, 100, 10)
  assert found == 0
  assert tried == [50, 25, 12.5]


class Virtual:
  """A clock that only sleep and work move."""

  def __init__(self):
    self.time = 0.0

  def now(self):
    return self.time

  def sleep(self, seconds):
    self.time += seconds


def served(rate, service, count, bound=math.inf, misses=0, seed=0):
  """A line whose every query takes as long: M/D/1."""
  clock = Virtual()
  load = Load(0.0, rate, 0, count, bound, misses)
  sizes = np.array([1])
  line = Line(load, sizes, 1, (seed,), now=clock.now, sleep=clock.sleep)
  line.work(lambda piece: clock.sleep(service))
  return line.served()


def mean_wait(rate, service):
  """Pollaczek and Khinchine."""
  busy = rate * service
  return busy * service / (2 * (1 - busy))


def share_waiting_at_most(time, rate, service):
  """Erlang: the distribution of waits of M/D/1."""
  terms = [
    (rate * (k * service - time)) ** k
    / math.factorial(k)
    * math.exp(-rate * (k * service - time))
    for k in range(int(time / service) + 1)
  ]
  return (1 - rate * service) * sum(terms)


@pytest.mark.parametrize('busy', [0.3, 0.7])
def test_waits_are_those_of_a_queue_with_equal_services(busy):
  found = served(busy / 0.01, 0.01, 40_000)
  waits = found.latencies - 0.01
  assert waits.mean() == pytest.approx(mean_wait(busy / 0.01, 0.01), rel=0.05)
  for time in (0.0, 0.005, 0.02, 0.04):
    expected = share_waiting_at_most(time, busy / 0.01, 0.01)
    assert (waits <= time + 1e-9).mean() == pytest.approx(expected, abs=0.01)


def test_the_highest_rate_of_a_queue_is_the_one_that_theory_has():
  service, bound, count = 0.01, 0.03, 20_000

  def keeps(rate):
    found = served(rate, service, count, bound, allowed_misses(count, 95))
    assert found.missed == (percentile(found.latencies, 95) > bound)
    return not found.missed

  found, _ = highest_rate(keeps, 1, 100, 9)
  keep = [
    rate
    for rate in np.linspace(1, 99, 981)
    if share_waiting_at_most(bound - service, rate, service) >= 0.95
  ]
  assert found == pytest.approx(max(keep), rel=0.02)


def test_higher_rates_have_the_same_queries_closer_together():
  slow, fast = (served(rate, 0.01, 500).latencies for rate in (20, 80))
  assert (fast >= slow - 1e-9).all()
  assert fast.sum() > slow.sum()


def test_a_line_ends_as_soon_as_too_many_queries_miss_the_bound():
  found = served(200, 0.01, 10_000, bound=0.05, misses=10)
  assert found.missed
  assert (found.latencies > 0.05).sum() == 11
  assert found.queries < 100
