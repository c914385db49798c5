"""Partitions as a user would give them, for tests of configs."""

import jax


def pair(ids):
  """Complementary for up to 5,000 ids."""
  return ids % 100, ids // 100


def called_back(ids):
  """As `pair`, by Python while it scores."""
  shape = jax.ShapeDtypeStruct(ids.shape, ids.dtype)
  return jax.pure_callback(pair, (shape, shape), ids)


def alike(ids):
  """Not complementary: 0 and 100 meet."""
  return ids % 100, ids % 50


def broken(ids):
  """Raises."""
  return ids['no such key']


def single(ids):
  """One array, not a tuple of one."""
  return ids


def sparse(ids):
  """One id a bucket, with a large gap before."""
  return (ids + 900_000_000,)
