"""Runs -> vocabularies: the same whatever the memory."""

import collections

import numpy as np
import polars as pl
import pytest

from dlrm_jax.data import merging
from dlrm_jax.data.counting import Count, Values, count
from dlrm_jax.data.merging import Merge, merge
from dlrm_jax.data.raw import Sparse
from dlrm_jax.data.spool import Slice


def runs_of(folder, parts):
  """Runs of lists of values, None where missing."""
  folders = []
  for number, values in enumerate(parts):
    path = folder / f'{number}.arrow'
    pl.DataFrame({'C': pl.Series(values, dtype=pl.UInt32)}).write_ipc(path)
    part = Slice(path, 'train', 0, len(values), True)
    output = folder / f'run{number}'
    count(Count((Sparse('C'),), (part,), number, Values(), True, output))
    folders.append(output)
  return tuple(folders)


def merged(folder, runs, order, min_count, entries):
  unit = Merge(
    *('C', runs, order, min_count, entries * merging._ENTRY_BYTES),
    vocabulary=folder / 'C.parquet',
    output=folder / 'C.json',
  )
  merge(unit)
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


def test_ranges_of_keys_are_as_small_as_memory_asks():
  rng = np.random.default_rng(0)
  runs = [
    np.sort(rng.integers(0, 2**32, 3000, dtype=np.uint32)) for _ in range(40)
  ]
  cuts = merging._cuts(runs, 30)
  every = np.sort(np.concatenate(runs))
  sizes = np.diff([0, *np.searchsorted(every, cuts), len(every)])
  assert sizes.max() < 1.5 * len(every) / 30
