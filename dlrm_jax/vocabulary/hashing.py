"""Categorical values -> rows of a table by hashing.

Hashing needs no pass over the data, and has no row for unknown values: values
that share a row share its vector. A missing value is hashed like any other.
"""

import numpy as np
import polars as pl

from dlrm_jax.vocabulary.keys import keys_of

HASH = 'splitmix64(key, or 2^32 where missing) mod rows'
"""The hash of `hashed_rows`; every prepared set names it."""

_MISSING = 1 << 32
"""Key of a missing value: one more than the keys of all 32-bit values."""


def hashed_rows(values: pl.Series, rows: int) -> np.ndarray:
  """Values -> rows i32[n], equal on every machine and in every version.

  A row is splitmix64 of the value's key (2^32 for a missing value) modulo the
  number of rows.

  >>> hashed_rows(pl.Series([0, 7, None], dtype=pl.UInt32), 1000).tolist()
  [535, 487, 56]
  """
  keys, missing = keys_of(values)
  keys = keys.astype(np.uint64)
  if missing is not None:
    keys[missing] = _MISSING
  return (splitmix64(keys) % np.uint64(rows)).astype(np.int32)


def splitmix64(x: np.ndarray) -> np.ndarray:
  """One step of the SplitMix64 generator from each state: u64[n] -> u64[n].

  Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
  2014.

  >>> hex(splitmix64(np.zeros(1, np.uint64))[0])
  '0xe220a8397b1dcdaf'
  """
  x = x + np.uint64(0x9E3779B97F4A7C15)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
