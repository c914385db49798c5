"""No two ids share all their buckets, or their user hears of it."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from dlrm_jax.batch import Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoder import encode
from dlrm_jax.embedding.encoding import Composed
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.operations import Concat
from dlrm_jax.embedding.partitions import (
  ChineseRemainder,
  Hashes,
  QuotientRemainder,
  given,
)
from dlrm_jax.embedding.sizes import (
  large_and_small,
  least_budget,
  small_buckets,
)
from dlrm_jax.embedding.table import Table
from dlrm_jax.errors import InputError

COMPLEMENTARY = {'quotient': QuotientRemainder, 'chinese': ChineseRemainder}
VOCABULARIES = (
  *(1, 2, 3, 4, 7, 199, 200, 201, 997, 1000, 4096),
  *(10_007, 65_535, 65_536, 65_537, 99_991, 100_000),
)


def buckets_of(partition):
  """i32[n, k] of all ids."""
  found = partition.split(jnp.arange(partition.ids, dtype=jnp.int32))
  return np.stack([np.asarray(x) for x in found], 1)


def assert_distinct(partition):
  """All ids have combinations of their own, of buckets that there are."""
  found = buckets_of(partition)
  assert found.dtype == np.int32
  assert (found >= 0).all()
  assert (found < partition.buckets).all()
  combined = np.zeros(partition.ids, np.int64)
  for of_one, buckets in zip(found.T, partition.buckets, strict=True):
    combined = combined * buckets + of_one
  assert len(np.unique(combined)) == partition.ids


@pytest.mark.parametrize('parts', [2, 3, 4])
@pytest.mark.parametrize('name', COMPLEMENTARY)
@pytest.mark.parametrize('ids', VOCABULARIES)
def test_all_ids_have_rows_of_their_own_at_every_compression(ids, name, parts):
  make, coprime = COMPLEMENTARY[name], name == 'chinese'
  least = least_budget(ids, parts, sum, coprime)
  assert_distinct(make(ids, small_buckets(ids, parts, coprime)))
  for compression in (1.5, 4, 10, 60, math.inf):
    budget = max(int(ids / compression), least)
    buckets = large_and_small(ids, parts, budget, sum, coprime)
    assert len(buckets) == parts
    assert_distinct(make(ids, buckets))


@drawn(st.data(), st.integers(2, 4))
def test_any_buckets_whose_product_suffices_tell_ids_apart(data, parts):
  buckets = tuple(
    data.draw(st.lists(st.integers(1, 40), min_size=parts, max_size=parts))
  )
  ids = data.draw(st.integers(1, min(math.prod(buckets), 100_000)))
  assert_distinct(QuotientRemainder(ids, buckets))
  if all(math.gcd(a, b) == 1 for a, b in itertools.combinations(buckets, 2)):
    assert_distinct(ChineseRemainder(ids, buckets))


def test_digits_and_remainders_are_those_of_arithmetic():
  for i in (0, 1, 59, 60, 99):
    split = [int(x) for x in QuotientRemainder(100, (5, 4, 6)).split(one(i))]
    assert split == [i % 5, i // 5 % 4, i // 20 % 6]
    split = [int(x) for x in ChineseRemainder(100, (5, 4, 7)).split(one(i))]
    assert split == [i % 5, i % 4, i % 7]


def one(i):
  return jnp.array(i, jnp.int32)


@pytest.mark.parametrize(
  'partition',
  [
    QuotientRemainder(100_000, (10_000, 10)),
    ChineseRemainder(100_000, (331, 303)),
    QuotientRemainder(65_537, (300, 20, 11)),
    given(65_536, lambda x: (x // 7, x % 7)),
  ],
)
def test_concatenated_vectors_of_all_ids_are_distinct(partition):
  parts = len(partition.buckets)
  tables = tuple(Table(f't{m}', m, 4) for m in partition.buckets)
  encoding = Composed(tables, partition, Concat(), 4 * parts)
  collection = EmbeddingCollection((Feature('x', encoding),))
  ids = jnp.arange(partition.ids, dtype=jnp.int32)[:, None]
  stacks = collection.init(jax.random.key(0))
  vectors = collection.lookup(stacks, collection.rows(ids))
  inputs = Inputs(jnp.zeros((len(ids), 0)), ids)
  made = np.asarray(encode(collection, vectors, inputs)['vectors'])[:, 0]
  assert made.shape == (partition.ids, 4 * parts)
  assert len(np.unique(made, axis=0)) == partition.ids


@pytest.mark.parametrize('make', COMPLEMENTARY.values())
def test_a_product_that_is_too_small_is_refused(make):
  message = r'buckets \(3, 4\): their product is 12, too few to tell 13 ids'
  with pytest.raises(InputError, match=message):
    make(13, (3, 4))
  assert make(12, (3, 4)).buckets == (3, 4)
  with pytest.raises(InputError, match=r'buckets \(3, 0\): expected 1 or more'):
    make(13, (3, 0))


def test_remainders_that_are_not_coprime_are_refused():
  message = r'buckets \(9, 5, 6\): 9 and 6 have the common divisor 3'
  with pytest.raises(InputError, match=message):
    ChineseRemainder(100, (9, 5, 6))


def test_given_partitions_are_counted_and_used():
  partition = given(12, lambda x: (x % 4, x // 4))
  assert partition.buckets == (4, 3)
  assert_distinct(partition)


@pytest.mark.parametrize(
  ('ids', 'function', 'message'),
  [
    (
      9,
      lambda x: (x % 3, x // 6),
      r'not complementary: the ids 0 and 3 share all their buckets, \(0, 0\)',
    ),
    (
      100_000,
      lambda x: (jnp.where(x == 99_999, 12_345, x),),
      r'the ids 12345 and 99999 share all their buckets, \(12345,\)',
    ),
    (9, lambda x: (x - 1, x), 'expected bucket numbers, integers from 0'),
    (9, lambda x: (x / 2, x), 'expected bucket numbers, integers from 0'),
  ],
)
def test_given_partitions_that_are_none_are_refused(ids, function, message):
  with pytest.raises(InputError, match=message):
    given(ids, function)


def chi_squared(counts):
  """Divided by the degrees of freedom: about 1 for a uniform draw."""
  expected = counts.sum() / counts.size
  return np.square(counts - expected).sum() / expected / (counts.size - 1)


@pytest.mark.parametrize('salt', [0, 1, 26])
@pytest.mark.parametrize('stride', [1, 64, 1000])
def test_hashes_spread_regular_ids_evenly(stride, salt):
  ids = jnp.arange(64_000, dtype=jnp.int32) * stride
  for of_one in Hashes(2**31 - 1, (64, 61), salt).split(ids):
    counts = np.bincount(of_one, minlength=int(of_one.max()) + 1)
    assert len(counts) in (61, 64)
    assert 0.4 < chi_squared(counts) < 1.8


def pairs(x, y):
  return np.histogram2d(x, y, 32, ((0, 32), (0, 32)))[0]


def test_hashes_of_one_id_are_independent_of_one_another():
  ids = jnp.arange(64_000, dtype=jnp.int32)
  found = Hashes(2**31 - 1, (32, 32, 32)).split(ids)
  for x, y in itertools.combinations(found, 2):
    assert 0.8 < chi_squared(pairs(x, y)) < 1.2


def test_salts_make_other_hashes():
  ids = jnp.arange(64_000, dtype=jnp.int32)
  found = [Hashes(2**31 - 1, (32, 32), salt).split(ids) for salt in (0, 1, 2)]
  for x, y in itertools.combinations(itertools.chain(*found), 2):
    assert 0.8 < chi_squared(pairs(x, y)) < 1.2


def test_hashes_need_no_vocabulary():
  ids = jnp.array([0, 2**31 - 2], jnp.int32)
  for of_one in Hashes(2**31 - 1, (7, 5)).split(ids):
    assert of_one.dtype == jnp.int32
    assert (of_one >= 0).all()
