"""Runs -> vocabularies: the same whatever the memory."""

import collections
import contextlib
import os
import resource

import numpy as np
import polars as pl
import pytest

from dlrm_jax.prepare.stages import merge as merging
from dlrm_jax.prepare.stages.count import (
  Count,
  KeyCounts,
  count_values,
  mark_of,
)
from dlrm_jax.prepare.stages.merge import Merge, merge_runs
from dlrm_jax.prepare.stages.parse import Slice
from dlrm_jax.vocabulary.coder import Values
from dlrm_jax.vocabulary.columns import Sparse


def counted(folder, number, values, column, dtype, places=True):
  """The run of a list of values, None where missing."""
  path = folder / f'{number}.arrow'
  pl.DataFrame({'C': pl.Series(values, dtype=dtype)}).write_ipc(path)
  part = Slice(path, 'train', 0, len(values), True)
  output = mark_of(folder, number)
  count_values(Count((column,), (part,), number, Values(), places, output))


PLAIN = Sparse('C')


def runs_of(folder, parts, column=PLAIN, dtype=pl.UInt32):
  for number, values in enumerate(parts):
    counted(folder, number, values, column, dtype)
  return folder, len(parts)


def merged(folder, runs, order, min_count, entries):
  unit = Merge(
    *('C', *runs, order, min_count, entries * merging._ENTRY_BYTES),
    vocabulary=folder / 'C.parquet',
    output=folder / 'C.json',
  )
  merge_runs(unit)
  return pl.read_parquet(folder / 'C.parquet')


def plain(parts, order, min_count):
  values = [value for part in parts for value in part]
  counts = collections.Counter(values)
  kept = [v for v in dict.fromkeys(values) if counts[v] >= min_count]
  if order == 'frequency':
    kept.sort(key=lambda v: (-counts[v], -1 if v is None else v))
  return kept, [counts[v] for v in kept]


def skewed():
  rng = np.random.default_rng(0)
  drawn = (rng.zipf(1.3, (5, 2000)) % 1500).tolist()
  return [[None if v % 11 == 0 else v for v in part] for part in drawn]


def regular():
  """Nearly all values are as frequent, and a few are not."""
  every = list(range(3000))
  return [every, every, [*every, 5000, 5001, 5002]]


@pytest.mark.parametrize('draw', [skewed, regular])
@pytest.mark.parametrize('order', ['frequency', 'appearance'])
@pytest.mark.parametrize('min_count', [1, 3])
def test_a_vocabulary_does_not_depend_on_memory(
  tmp_path, draw, order, min_count
):
  parts = draw()
  runs = runs_of(tmp_path, parts)
  keys, counts = plain(parts, order, min_count)
  for entries in (10**6, 900, 150):
    found = merged(tmp_path, runs, order, min_count, entries)
    assert found['key'].to_list() == keys
    assert found['count'].to_list() == counts


def test_texts_are_merged_with_their_values(tmp_path):
  parts = [['b', 'a', 'b', None], ['a', 'c', None, None], ['b']]
  runs = runs_of(tmp_path, parts, dtype=pl.String)
  for entries in (10**6, 1):
    found = merged(tmp_path, runs, 'appearance', 1, entries)
    assert found['value'].to_list() == ['b', 'a', None, 'c']
    assert found['count'].to_list() == [3, 2, 3, 1]


def test_a_value_counts_once_in_a_bag(tmp_path):
  bags = [[7, 7], [8, 9, 8], [8], [], None, [9, None, None]]
  runs = runs_of(tmp_path, [bags], Sparse('C', bag=True), pl.List(pl.UInt32))
  found = merged(tmp_path, runs, 'frequency', 1, 10**6)
  assert found['key'].to_list() == [8, 9, None, 7]
  assert found['count'].to_list() == [2, 2, 1, 1]
  found = merged(tmp_path, runs, 'frequency', 2, 10**6)
  assert found['key'].to_list() == [8, 9]


@contextlib.contextmanager
def few_files():
  """At most 256 files may be open."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_thousands_of_runs_are_merged_with_few_open_files(tmp_path):
  rng = np.random.default_rng(0)
  parts = [rng.integers(0, 50_000, 200).tolist() for _ in range(4)]
  runs_of(tmp_path, parts)
  for number in range(len(parts), 4200):
    for name in ('json', 'run'):
      there = tmp_path / f'{number % len(parts):06}.{name}'
      os.link(there, tmp_path / f'{number:06}.{name}')
  with few_files():
    found = merged(tmp_path, (tmp_path, 4200), 'frequency', 1, 10**6)
  keys, counts = plain(parts, 'frequency', 1)
  assert found['key'].to_list() == keys
  assert found['count'].to_list() == [1050 * n for n in counts]


@pytest.mark.parametrize('order', ['frequency', 'appearance'])
def test_hundreds_of_ranges_are_merged_with_few_open_files(tmp_path, order):
  parts = np.random.default_rng(0).integers(0, 2000, (2, 1500)).tolist()
  runs = runs_of(tmp_path, parts)
  with few_files():
    found = merged(tmp_path, runs, order, 1, 10)
  keys, counts = plain(parts, order, 1)
  assert found['key'].to_list() == keys
  assert found['count'].to_list() == counts


def test_ranges_of_keys_are_as_small_as_memory_asks(tmp_path):
  rng = np.random.default_rng(0)
  drawn = rng.integers(0, 2**32, (40, 3000), dtype=np.uint32)
  folder, count = runs_of(tmp_path, drawn.tolist())
  runs = [
    KeyCounts.open(mark_of(folder, number), 'C') for number in range(count)
  ]
  cuts = merging._cuts(runs, 30)
  every = np.sort(drawn.ravel())
  sizes = np.diff([0, *np.searchsorted(every, cuts), len(every)])
  assert sizes.max() < 1.5 * len(every) / 30
