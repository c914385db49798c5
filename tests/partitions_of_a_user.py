"""Partitions as a user would give them, for tests of configs."""


def pair(ids):
  """Complementary for up to 5,000 ids."""
  return ids % 100, ids // 100


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
