"""Engines that are processes, with tiny tables."""

import math
import os

import numpy as np
import pytest

from dlrm_jax.colocate.company import Company
from dlrm_jax.colocate.models import Spec, bytes_of
from dlrm_jax.errors import InputError
from dlrm_jax.queries.sizes import read_sizes

CORES = [(core,) for core in sorted(os.sched_getaffinity(0))[:2]]


@pytest.fixture(scope='module')
def two():
  """Two engines, and what the first said of its start."""
  spec = Spec('rmc1', None, 'int8', 1e-4)
  with Company(spec, CORES, 1024, read_sizes('20'), 1.0, 0) as company:
    yield company, [company.add() for _ in range(2)]


def test_engines_say_what_they_need(two):
  for ready in two[1]:
    assert 1e8 < ready.bytes < 5e9
    assert ready.seconds > 0


def test_a_batch_is_timed_in_its_parts_while_the_other_engine_computes(two):
  times, others = two[0].times(0.5, 2)
  assert times.rows == 24  # 20 items are padded
  assert times.calls >= 3
  for part in (times.whole, times.lookup, times.layers):
    assert part.cpu > 0
    assert part.wall > 0
  (other,) = others
  assert other.queries > 0
  assert other.began < times.ended
  assert other.ended > times.began


def test_alone_an_engine_has_no_others(two):
  _, others = two[0].times(0.0, 1)
  assert others == []


def test_all_queries_are_answered_while_the_other_engine_has_a_load(two):
  served, (other,) = two[0].serve(100, 50, 2)
  assert served.queries == len(served.latencies) == 50
  assert (served.latencies > 0).all()
  assert not served.missed
  assert other.queries > 10
  assert not len(other.latencies)


def test_queries_that_all_wait_are_answered_as_fast_as_it_goes(two):
  served, _ = two[0].serve(math.inf, 50, 2)
  assert served.queries == 50
  # One after the other, in order of arrival.
  assert (np.diff(served.latencies) > 0).all()


def test_a_load_ends_once_too_many_queries_miss_the_bound(two):
  served, _ = two[0].serve(math.inf, 10_000, 1, bound=1e-9, misses=4)
  assert served.missed
  assert served.queries == 5


def test_the_bytes_of_tables_are_those_of_their_rows():
  float32, int8 = (
    bytes_of(Spec('rmc1', None, storage, 0.01))
    for storage in ('float32', 'int8')
  )
  assert float32 == (8 * 40_000 * 32 * 4, 0)
  assert int8 == (8 * 40_000 * (32 + 8), 8 * 40_000 * 32 * 4)


def test_an_engine_that_cannot_load_says_why(tmp_path):
  spec = Spec('ctr', tmp_path, 'as stored', 1.0)
  with (
    Company(spec, CORES, 1024, read_sizes('20'), 1.0, 0) as company,
    pytest.raises(InputError, match='neither a workdir'),
  ):
    company.add()
