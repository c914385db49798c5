"""Tables have the sizes of the papers' formulas, within the budget."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dlrm_jax.embedding.sizes import (
  NotFalling,
  Seen,
  frequent_rows,
  large_and_small,
  least_budget,
  mixed_cost,
  mixed_widths,
  most,
  small_buckets,
  solve_alpha,
)
from dlrm_jax.errors import InputError

vocabularies = st.integers(1, 1_000_000)
several = st.integers(2, 4)


def coprime(buckets):
  return all(math.gcd(a, b) == 1 for a, b in itertools.combinations(buckets, 2))


def width(dim):
  """The cost of rows of one width."""
  return lambda buckets: dim * sum(buckets)


@given(vocabularies, st.integers(1, 4), st.booleans())
def test_small_buckets_suffice_and_are_about_equal(ids, parts, apart):
  buckets = small_buckets(ids, parts, apart)
  assert len(buckets) == parts
  assert math.prod(buckets) >= ids
  assert not apart or coprime(buckets)
  if not apart:
    root = ids ** (1 / parts)
    assert root / 2 <= min(buckets)
    assert max(buckets) <= root + 1


@given(vocabularies, several, st.floats(1.1, 200), st.booleans())
def test_what_is_found_fits_the_budget_and_uses_it(ids, parts, ratio, apart):
  least = least_budget(ids, parts, width(16), apart)
  budget = max(int(16 * ids / ratio), least)
  buckets = large_and_small(ids, parts, budget, width(16), apart)
  assert len(buckets) == parts
  assert math.prod(buckets) >= ids
  assert not apart or coprime(buckets)
  used = width(16)(buckets)
  assert used <= budget
  # But for the next number of rows that is coprime to the others.
  assert budget - used < 16 * (20 if apart else 1)


@given(vocabularies, several, st.booleans())
def test_less_than_the_least_budget_is_refused(ids, parts, apart):
  least = least_budget(ids, parts, width(16), apart)
  assert large_and_small(ids, parts, least, width(16), apart)
  message = (
    f'budget of {least - 1:,} parameters is too small: it takes {least:,}'
  )
  with pytest.raises(InputError, match=message):
    large_and_small(ids, parts, least - 1, width(16), apart)


@given(st.integers(1, 3000))
def test_the_least_budget_of_two_is_the_least_there_is(ids):
  every = min(m + -(-ids // m) for m in range(1, ids + 1))
  assert every <= least_budget(ids, 2, sum) <= 1.01 * every + 1


@given(st.integers(200, 100_000), st.integers(2, 20))
def test_quotients_at_a_compression_are_as_few_as_suffice(ids, ratio):
  rows, collisions = large_and_small(ids, 2, ids // ratio + 50, sum)
  assert rows + collisions == ids // ratio + 50
  assert rows * collisions >= ids
  # One fewer would not tell all ids apart, or has been stepped over.
  fewer = math.floor(0.98 * collisions) - 1
  assert (rows + collisions - fewer) * fewer < ids


@given(st.integers(1, 10**6), st.integers(1, 50))
def test_most_is_the_last_that_fits(budget, each):
  def cost(n):
    return n * n * each

  assume(cost(1) <= budget)
  found = most(budget, cost)
  assert cost(found) <= budget < cost(found + 1)


def test_most_of_nothing_is_refused():
  with pytest.raises(InputError, match='budget of 3 parameters is too small'):
    most(3, lambda n: 4 * n)


tables = st.lists(st.integers(1, 10**6), min_size=1, max_size=26)


@given(tables, st.sampled_from([1, 4, 16, 64]), st.floats(0, 3))
def test_widths_follow_the_power_law(rows, dim, alpha):
  widths = mixed_widths(rows, dim, alpha)
  for n, d in zip(rows, widths, strict=True):
    exact = dim * (min(rows) / n) ** alpha
    assert d & (d - 1) == 0
    assert 1 <= d <= dim
    if exact >= 1:
      assert exact / math.sqrt(2) * 0.999 <= d <= exact * math.sqrt(2) * 1.001


def test_without_a_power_all_are_wide():
  assert mixed_widths((10, 10_000), 16, 0.0) == (16, 16)


def test_rows_and_projections_are_counted():
  # Width 16 is not projected; the others have a matrix of d x 16.
  widths = mixed_widths((100, 10_000, 1_000_000), 16, 0.3)
  assert widths == (16, 4, 1)
  assert mixed_cost((100, 10_000, 1_000_000), 16, widths) == (
    100 * 16 + 10_000 * 4 + 4 * 16 + 1_000_000 + 16
  )


@given(tables, st.floats(1, 8))
def test_the_power_is_the_least_that_fits(rows, ratio):
  budget = int(16 * sum(rows) / ratio)

  def cost(alpha):
    return mixed_cost(rows, 16, mixed_widths(rows, 16, alpha))

  assume(cost(32.0) <= budget)
  alpha = solve_alpha(rows, 16, budget)
  assert cost(alpha) <= budget
  for less in np.linspace(0, 0.999, 20) * alpha:
    assert cost(less) >= cost(alpha)


def test_a_budget_below_a_number_a_row_is_refused():
  # One table is the most popular one, and as wide as can be.
  with pytest.raises(InputError, match='too small: it takes 1,600'):
    solve_alpha((100,), 16, 1599)
  with pytest.raises(InputError, match='too small'):
    solve_alpha((100, 10_000), 16, 5000)


counts = st.lists(
  st.lists(st.integers(0, 1000), min_size=1, max_size=50),
  min_size=1,
  max_size=6,
)


@given(counts, st.integers(1, 300))
def test_rows_go_to_the_ids_that_are_seen_most(counts, budget):
  seen = [np.sort(np.array(x))[::-1] for x in counts]
  assume(budget >= len(seen))
  runs = [Seen.of([x]) for x in seen]
  rows = frequent_rows(runs, budget, lambda i, n: n)
  assert sum(rows) <= max(budget, len(seen))
  without = [x[n] for x, n in zip(seen, rows, strict=True) if n < len(x)]
  within = [x[n - 1] for x, n in zip(seen, rows, strict=True) if n > 1]
  # Nobody waits who was seen more often than one who has a row.
  if without and within:
    assert max(without) <= min(within)
  if budget >= sum(map(len, seen)):
    assert rows == tuple(map(len, seen))


falling = st.lists(st.integers(0, 9), max_size=30).map(
  lambda x: np.sort(np.array(x, np.int64))[::-1]
)


def spelled_out(seen):
  return np.repeat(seen.counts, np.diff(seen.ends, prepend=0))


@given(falling, st.integers(1, 9))
def test_runs_of_counts_are_the_counts_however_they_are_cut(counts, size):
  pieces = [counts[i : i + size] for i in range(0, len(counts), size)]
  seen = Seen.of(pieces)
  np.testing.assert_array_equal(spelled_out(seen), counts)
  assert len(np.unique(seen.counts)) == len(seen.counts)
  for count in range(10):
    assert seen.oftener(count) == np.sum(counts > count)
    assert seen.oftener(count, equal=True) == np.sum(counts >= count)


@given(falling, falling)
def test_runs_of_two_features_add_up(one, two):
  size = max(len(one), len(two))
  both = [np.pad(x, (0, size - len(x))) for x in (one, two)]
  found = spelled_out(Seen.of([one]) + Seen.of([two]))
  np.testing.assert_array_equal(found, sum(both))


@pytest.mark.parametrize('pieces', [[[3, 4]], [[3, 2], [], [3]]])
def test_counts_that_rise_are_refused(pieces):
  with pytest.raises(NotFalling):
    Seen.of(map(np.array, pieces))
