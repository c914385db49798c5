"""How rows get from parts to shards: all of them, in any order, few reads."""

import collections
import itertools
import os

import numpy as np
import pytest

from dlrm_jax.prepare.stages import deal as dealing
from dlrm_jax.prepare.stages import spread as spreading
from dlrm_jax.prepare.stages.deal import Purpose, deal
from dlrm_jax.prepare.stages.spread import (
  by_pile,
  make_chunk,
  path_of,
  plan_transfer,
  read_rows,
)


@pytest.fixture
def few_piles(monkeypatch):
  def set_to(most, bundle):
    monkeypatch.setattr(spreading, 'MOST_PILES', most)
    monkeypatch.setattr(spreading, 'BUNDLE_SHARDS', bundle)

  return set_to


def spread(folder, parts, shards, key=(0, 0)):
  """The rows of each shard; a row is its number."""
  made = plan_transfer(folder, 'train', parts, shards, 1, key)
  numbers = np.arange(sum(parts), dtype=np.int32)[:, None]
  ends = np.cumsum(parts)
  for part, rows in enumerate(np.split(numbers, ends[:-1])):
    if made.bounds is not None:
      rows = by_pile(rows, made.bounds, part, (Purpose.PART, *key, part))
    rows.tofile(path_of(made.folder, part))
  for chunk in made.chunks:
    make_chunk(chunk)
    assert chunk.sound()
  found = [source.read()[:, 0] for source in made.sources]
  assert [len(rows) for rows in found] == list(shards)
  return found


def some_sizes(parts, shards):
  """Parts of different sizes, and shards that take as many rows."""
  sizes = np.random.default_rng(0).integers(1, 60, parts)
  full = -(-sizes.sum() // shards)
  left = sizes.sum() - full * (shards - 1)
  return sizes.tolist(), [*[int(full)] * (shards - 1), int(left)]


@pytest.mark.parametrize('most', [256, 4])
def test_every_row_goes_to_one_shard(tmp_path, few_piles, most):
  few_piles(most, 3)
  parts, shards = some_sizes(40, 13)
  found = spread(tmp_path, parts, shards)
  assert sorted(np.concatenate(found)) == list(range(sum(parts)))
  assert (tmp_path / 'bundles').exists() == (most == 4)
  again = spread(tmp_path, parts, shards)
  np.testing.assert_array_equal(np.concatenate(found), np.concatenate(again))
  other = spread(tmp_path, parts, shards, (1, 0))
  assert (np.concatenate(found) != np.concatenate(other)).any()


def test_without_shuffling_shards_are_filled_one_after_the_other(tmp_path):
  parts, shards = some_sizes(40, 13)
  found = spread(tmp_path, parts, shards, None)
  assert np.concatenate(found).tolist() == list(range(sum(parts)))


@pytest.mark.parametrize('most', [256, pytest.param(2, marks=pytest.mark.slow)])
def test_every_order_of_rows_is_as_likely(
  tmp_path, few_piles, monkeypatch, most
):
  monkeypatch.setattr(os, 'fsync', lambda file: None)
  few_piles(most, 2)
  seeds = 360
  orders = collections.Counter()
  for seed in range(seeds):
    shards = spread(tmp_path, [2, 2], [1, 1, 1, 1], (seed, 0))
    orders[tuple(np.concatenate(shards).tolist())] += 1
  assert set(orders) == set(itertools.permutations(range(4)))
  mean = seeds / 24
  # Of 23 degrees of freedom: above 58 in one of 10,000 draws.
  assert sum((n - mean) ** 2 / mean for n in orders.values()) < 58


def test_how_many_rows_go_where_has_the_law_of_cards():
  parts, shards = [3, 2, 1], [2, 4]
  found = [deal(parts, shards, (seed,)) for seed in range(6000)]
  for dealt in found:
    assert dealt.sum(1).tolist() == parts
    assert dealt.sum(0).tolist() == shards
  # Of the two places of the first shard, each part has its share.
  mean = np.mean([dealt[:, 0] for dealt in found], axis=0)
  np.testing.assert_allclose(mean, [1, 2 / 3, 1 / 3], atol=0.03)


def test_many_rows_are_dealt_by_nearly_the_same_law(monkeypatch):
  monkeypatch.setattr(dealing, '_EXACT', 1000)
  parts, shards = [50] * 40, [400] * 5
  dealt = deal(parts, shards, (0,))
  assert dealt.sum(1).tolist() == parts
  assert dealt.sum(0).tolist() == shards
  assert dealt.min() >= 0


@pytest.fixture
def reads(monkeypatch):
  """How often each file is read."""
  found = collections.Counter()

  def counted(path, *args):
    found[path] += 1
    return read_rows(path, *args)

  monkeypatch.setattr(spreading, 'read_rows', counted)
  return found


def added(folder):
  """Numbers that were added: each bound is the one before and another."""
  return sum(
    np.load(path, mmap_mode='r').size for path in folder.rglob('*.npy')
  )


# A log of 14,000 parts and 4,486 shards, a hundredth and its double: as many
# shards a bundle as there would be bundles.
@pytest.mark.parametrize('times', [1, 2])
def test_reads_and_additions_grow_as_the_rows(
  tmp_path, few_piles, reads, times
):
  few_piles(16, 6)
  parts, shards = some_sizes(140 * times, 45 * times)
  spread(tmp_path, parts, shards)
  bundles = len(list((tmp_path / 'bundles' / 'train').glob('*.npy')))
  assert bundles == {1: 8, 2: 15}[times]
  assert sum(reads.values()) <= 2 * len(parts) * bundles
  most = 16 * (len(parts) + len(shards))
  assert sum(reads.values()) <= most
  assert added(tmp_path) <= 2 * most
  of_parts = [n for path, n in reads.items() if path.parent.name == 'train']
  assert max(of_parts) <= bundles


@pytest.mark.parametrize('shards', [1, 255, 256, 257, 65_537, 200_000])
def test_parts_have_no_more_piles_than_numbers_of_piles(shards):
  size = spreading._bundle_size(shards)
  assert size * spreading.MOST_PILES >= shards
  assert (size == 1) == (shards <= spreading.MOST_PILES)


def test_rows_go_to_their_piles_whatever_their_number(tmp_path):
  # More piles than 16 bits have numbers.
  piles = 66_000
  dealt = np.zeros((1, piles), np.int32)
  dealt[0, [0, 400, 65_536, 65_999]] = 1
  spreading._save_bounds(tmp_path / 'bounds.npy', dealt)
  rows = np.arange(4, dtype=np.int32)[:, None]
  found = by_pile(rows, tmp_path / 'bounds.npy', 0, (0,))
  drawn = np.array([0, 1, 2, 3])
  np.random.default_rng((0,)).shuffle(drawn)
  assert found[drawn, 0].tolist() == [0, 1, 2, 3]
