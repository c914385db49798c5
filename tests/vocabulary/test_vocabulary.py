"""Categorical values -> rows."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrm_jax.vocabulary.hashing import hashed_rows
from dlrm_jax.vocabulary.lookup import Lookup


@settings(max_examples=200, deadline=None)
@given(
  st.sets(st.integers(0, 40) | st.integers(0, 2**32 - 1)),
  st.lists(st.integers(0, 40) | st.integers(0, 2**32 - 1), max_size=60),
  st.sampled_from([np.uint32, np.uint64]),
)
def test_keys_are_found_and_others_have_row_0(known, asked, kind):
  rows = {key: row for row, key in enumerate(known, 1)}
  table = Lookup.of(
    np.array([*rows], kind), np.array([*rows.values()], np.int32)
  )
  found = table(np.array(asked, kind))
  assert found.dtype == np.int32
  assert found.tolist() == [rows.get(key, 0) for key in asked]


def test_many_keys_are_all_found_and_no_others():
  rng = np.random.default_rng(0)
  known = rng.permutation(np.arange(0, 2_000_000, 2, dtype=np.uint32))
  rows = np.arange(1, len(known) + 1)
  table = Lookup.of(known, rows)
  np.testing.assert_array_equal(table(known), rows)
  assert not table(known + np.uint32(1)).any()


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
