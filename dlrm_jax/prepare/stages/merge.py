"""Stage 3: the runs of a column -> its vocabulary, in bounded memory.

Two merge sorts on disk. First the runs are merged by key, one range of keys at
a time, and each range is stored in the order of its ranks, which is that of
the table's rows. Then the ranges are merged by rank. Memory determines the
number of ranges, which does not change the result. Files are opened one after
the other, because a process may open fewer files than there are.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.files import replacing, unfinished_name
from dlrm_jax.prepare.stages.count import KeyCounts, mark_of
from dlrm_jax.prepare.units import read_mark, size_is, write_mark

_ENTRY_BYTES = 120
"""Approximate bytes of memory for an entry while it is merged."""

_SAMPLES = 256
"""Number of keys sampled from each run, and of ranks from each range."""


class Merge(NamedTuple):
  """A unit: one column.

  Attributes:
    column: name of the column.
    runs: folder of the runs.
    count: number of units that have written runs there.
    order: 'frequency' (most frequent first, then by key, missing first) or
      'appearance' (in the order in which values first occur).
    min_count: number of rows in which a value of the vocabulary occurs at
      least.
    memory: approximate bytes of memory to use.
    vocabulary: Parquet file to write: `key`, `count` (and `value`, if values
      are texts) by row of the table. `count` is the number of rows of the log
      in which a value occurs.
    output: JSON file with the totals of the column and the bytes of the
      vocabulary.
  """

  column: str
  runs: Path
  count: int
  order: str
  min_count: int
  memory: int
  vocabulary: Path
  output: Path

  def sound(self) -> bool:
    """Whether the vocabulary has its size."""
    notes = read_mark(self.output)
    return notes is not None and size_is(self.vocabulary, notes['bytes'])


def merge_runs(unit: Merge) -> None:
  """Merges the runs of a column."""
  scratch = unfinished_name(unit.output)  # Two workers may run the unit.
  scratch.mkdir()
  runs = [
    KeyCounts.open(mark_of(unit.runs, number), unit.column)
    for number in range(unit.count)
  ]
  limit = max(1, unit.memory // _ENTRY_BYTES)
  values = missing = total = 0
  ranges: list[Path] = []
  for part in _by_key(runs, limit):
    values += part.height
    total += int(part['count'].sum())
    missing += int(part.filter(pl.col('key').is_null())['count'].sum())
    kept = part.filter(pl.col('count') >= unit.min_count)
    rank = -pl.col('count') if unit.order == 'frequency' else pl.col('first')
    kept = kept.with_columns(rank=rank).drop('first', strict=False)
    ranges.append(scratch / f'{len(ranges)}.arrow')
    kept = kept.sort('rank', maintain_order=True)
    kept.write_ipc(ranges[-1])
    np.save(ranges[-1].with_suffix('.npy'), kept['rank'].to_numpy())
  result = _Vocabulary(scratch / 'sorted')
  for part in _by_rank(ranges, limit):
    result.add(part.drop('rank'))
  # An empty vocabulary has columns, too.
  result.add(pl.scan_ipc(ranges[-1], glob=False).drop('rank').head(0).collect())
  result.save(unit.vocabulary)
  shutil.rmtree(scratch)
  counted = {
    'kept': result.digest.rows,
    'digest': result.digest.hexdigest,
    'values': values,
    'total': total,
    'unknown': total - result.total,
    'missing': missing,
    'missing_place': result.digest.missing + 1,
  }
  size = unit.vocabulary.stat().st_size
  write_mark(unit.output, {'counted': counted, 'bytes': size})


def _by_key(runs: Sequence[KeyCounts], limit: int) -> Iterator[pl.DataFrame]:
  """Merges runs by ranges of keys that have about `limit` entries in all runs.

  Yields:
    For each range, a frame of `key`, `count`, ..., in the order of keys.
  """
  pieces = max(1, -(-sum(run.length for run in runs) // limit))
  cuts = _cuts(runs, pieces)
  places = np.empty((len(runs), pieces + 1), np.int64)
  for run, place in zip(runs, places, strict=True):
    place[0], place[-1] = 0, run.length
    place[1:-1] = np.searchsorted(run.keys, cuts)
  for number in range(pieces):
    entries = _entries(runs, places[:, number], places[:, number + 1])
    yield _summed(entries if number else _with_missing(entries, runs))


def _entries(
  runs: Sequence[KeyCounts], start: np.ndarray, stop: np.ndarray
) -> pl.DataFrame:
  """Slices of all runs, one after the other.

  Args:
    runs: the runs.
    start: first entry of each slice, i64[runs].
    stop: end of each slice, i64[runs].

  Returns:
    Frame of `key`, `count`, `first` if places are noted, and `value` if values
    are texts.
  """
  slices = [
    (run, int(a), int(b))
    for run, a, b in zip(runs, start, stop, strict=True)
    if a < b
  ] or [(runs[0], 0, 0)]
  read = [run.read(a, b) for run, a, b in slices]
  frame = pl.DataFrame(
    {name: np.concatenate([part[name] for part in read]) for name in read[0]}
  )
  if runs[0].texts:
    texts = pl.concat([run.values(a, b) for run, a, b in slices])
    frame = frame.with_columns(texts.alias('value'))
  return frame


def _cuts(runs: Sequence[KeyCounts], pieces: int) -> np.ndarray:
  """Keys that cut the entries of all runs into about equal pieces."""
  sample, weights = [], []
  for number, run in enumerate(runs):
    if not run.length:
      continue
    step = max(1, run.length // _SAMPLES)
    # Different runs are sampled at different quantiles.
    sample.append(np.array(run.keys[number * 7919 % step :: step]))
    weights.append(np.full(len(sample[-1]), run.length / len(sample[-1])))
  if not sample:
    return np.empty(0, np.uint32)
  drawn, weight = np.concatenate(sample), np.concatenate(weights)
  order = np.argsort(drawn)
  before = np.cumsum(weight[order])
  quantiles = before[-1] * np.arange(1, pieces) / pieces
  return drawn[order][np.searchsorted(before, quantiles)]


def _with_missing(
  entries: pl.DataFrame, runs: Sequence[KeyCounts]
) -> pl.DataFrame:
  rows = np.concatenate([run.missing for run in runs])
  missing = pl.DataFrame(rows, schema={'count': pl.Int64, 'first': pl.Int64})
  missing = missing[[c for c in missing.columns if c in entries.columns]]
  return pl.concat([entries, missing], how='diagonal')


def _summed(entries: pl.DataFrame) -> pl.DataFrame:
  """One entry for each key, in the order of keys, missing first."""
  how = {'count': pl.Expr.sum, 'first': pl.Expr.min, 'value': pl.Expr.first}
  totals = [how[name](pl.col(name)) for name in entries.columns[1:]]
  return entries.group_by('key').agg(totals).sort('key', nulls_last=False)


def _by_rank(paths: Sequence[Path], limit: int) -> Iterator[pl.DataFrame]:
  """Ranges of keys, each in the order of ranks -> frames in one order of ranks.

  Entries of equal rank stay in the order of the ranges, which is that of keys.
  """
  cuts, sizes = _rank_cuts(paths, limit)
  chosen = _chosen(sizes, limit)
  stops = np.stack(
    [np.searchsorted(_ranks(p), cuts[chosen], 'right') for p in paths]
  )
  start, first = np.zeros(len(paths), np.int64), 0
  for number, stop in zip(chosen, stops.T, strict=True):
    slices = (
      pl.scan_ipc(path, glob=False).slice(int(a), int(b - a)).collect()
      for path, a, b in zip(paths, start, stop, strict=True)
      if a < b
    )
    before = number and cuts[number - 1] == cuts[number] - 1
    if before and sizes[number - 1] == first:  # All entries have one rank.
      yield from slices
    elif sizes[number] > first:
      yield pl.concat(slices).sort('rank', maintain_order=True)
    start, first = stop, sizes[number]


def _ranks(path: Path) -> np.ndarray:
  """The ascending ranks of a range, mapped from its file."""
  return np.load(path.with_suffix('.npy'), mmap_mode='r')


def _rank_cuts(
  paths: Sequence[Path], limit: int
) -> tuple[np.ndarray, np.ndarray]:
  """Ranks at which frames may end, and the number of entries up to each.

  A frequent rank gets frames of its own. Its entries need no sort, so they may
  exceed memory.
  """
  sample = []
  for path in paths:
    ranks = _ranks(path)
    step = max(1, min(limit, len(ranks)) // _SAMPLES)
    sample.append(np.append(ranks[::step], ranks[-1:]))
  drawn = np.concatenate(sample)
  cuts = np.unique(np.concatenate([drawn, drawn - 1]))
  sizes = np.zeros(len(cuts), np.int64)
  for path in paths:
    sizes += np.searchsorted(_ranks(path), cuts, 'right')
  return cuts, sizes


def _chosen(sizes: np.ndarray, limit: int) -> list[int]:
  """Numbers of the cuts for frames of at most `limit` entries, if possible."""
  chosen, first = [], 0
  for number, size in enumerate(sizes[1:]):
    if size - first > limit:
      chosen.append(number)
      first = int(sizes[number])
  return [*chosen, len(sizes) - 1] if len(sizes) else []


class VocabularyDigest:
  """Digest of the keys of a vocabulary, in the order of rows.

  Attributes:
    rows: number of rows so far.
    missing: place of the missing value, from 0; -1: the vocabulary has none.
  """

  def __init__(self) -> None:
    self.rows = 0
    self.missing = -1
    self._keys = hashlib.sha256()

  def add(self, keys: pl.Series) -> None:
    """Adds the keys of the next rows."""
    nulls = keys.is_null().to_numpy()
    if nulls.any():
      self.missing = self.rows + int(np.argmax(nulls))
    self._keys.update(keys.fill_null(0).to_numpy().tobytes())
    self.rows += len(keys)

  @property
  def hexdigest(self) -> str:
    """The digest; equal for equal keys in equal order."""
    digest = self._keys.copy()
    digest.update(str(self.missing).encode())
    return digest.hexdigest()


class _Vocabulary:
  """A vocabulary that is written frame by frame."""

  def __init__(self, folder: Path) -> None:
    folder.mkdir()
    self._folder = folder
    self._paths: list[Path] = []
    self.total = 0
    self.digest = VocabularyDigest()

  def add(self, part: pl.DataFrame) -> None:
    """Adds the next rows."""
    if not part.height and self._paths:
      return
    self.digest.add(part['key'])
    self.total += int(part['count'].sum())
    self._paths.append(self._folder / f'{len(self._paths)}.arrow')
    part.write_ipc(self._paths[-1])

  def save(self, path: Path) -> None:
    """Writes all rows as one Parquet file."""
    with replacing(path, synced=False) as work:
      pl.scan_ipc(self._paths, glob=False).sink_parquet(work)
