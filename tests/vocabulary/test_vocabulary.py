"""Categorical values -> rows."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrm_jax.vocabulary.hashing import Vocabulary, hashed_rows

keys = st.none() | st.integers(0, 40) | st.integers(0, 2**32 - 1)


def counted(values):
  frame = pl.DataFrame({'key': pl.Series(values, dtype=pl.UInt32)})
  return frame.group_by('key').agg(count=pl.len())


@settings(max_examples=200, deadline=None)
@given(
  st.lists(keys, max_size=60), st.lists(keys, max_size=60), st.integers(1, 3)
)
def test_rows_are_by_falling_count_then_value(seen, asked, min_count):
  vocabulary = Vocabulary.of(counted(seen), min_count)
  kept = [key for key in set(seen) if seen.count(key) >= min_count]
  kept.sort(key=lambda k: (-seen.count(k), -1 if k is None else k))
  expected = {key: row for row, key in enumerate(kept, 1)}
  assert vocabulary.rows == len(kept) + 1
  found = vocabulary.lookup(pl.Series(asked, dtype=pl.UInt32))
  assert found.dtype == np.int32
  assert found.tolist() == [expected.get(key, 0) for key in asked]


def test_many_keys_are_all_found_and_no_others():
  rng = np.random.default_rng(0)
  known = rng.permutation(np.arange(0, 2_000_000, 2, dtype=np.uint32))
  vocabulary = Vocabulary(pl.DataFrame({'key': known, 'count': known}))
  rows = vocabulary.lookup(pl.Series(known))
  np.testing.assert_array_equal(rows, np.arange(1, len(known) + 1))
  assert not vocabulary.lookup(pl.Series(known + np.uint32(1))).any()


def test_a_saved_vocabulary_is_the_same(tmp_path):
  values = pl.Series([3, 3, None, 7, None, None], dtype=pl.UInt32)
  vocabulary = Vocabulary.of(counted(values), 1)
  vocabulary.save(tmp_path / 'a.parquet')
  loaded = Vocabulary.load(tmp_path / 'a.parquet')
  assert loaded.lookup(values).tolist() == [2, 2, 1, 3, 1, 1]
  assert loaded.counts['count'].to_list() == [3, 2, 1]


@pytest.mark.parametrize('rows', [1, 7, 1000, 2**31 - 1])
def test_hashes_stay_in_range_and_spread(rows):
  values = pl.Series(np.arange(5000), dtype=pl.UInt32)
  found = hashed_rows(values, rows)
  assert found.min() >= 0
  assert found.max() < rows
  if rows <= 7:
    assert np.bincount(found, minlength=rows).min() > 0.8 * 5000 / rows


def test_hashing_is_the_same_for_ever():
  values = pl.Series([0, 7, 2**32 - 1, None], dtype=pl.UInt32)
  assert hashed_rows(values, 10**6).tolist() == [
    607535,
    374487,
    79680,
    56,
  ]
