"""Statistics of a prepared set, from a sample of blocks and its vocabularies.

Memory does not grow with the set: a fixed number of random blocks is read, and
one vocabulary at a time. The train blocks are divided into two halves. Bins of
ids come from the first; drift is measured between the second and split test,
so that rare ids of the first half do not look like drift.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from tqdm import tqdm

from dlrm_jax.data.folder import vocabulary_path
from dlrm_jax.data.prepared import Prepared
from dlrm_jax.data.schema import BLOCK_ROWS, Block, Column, take
from dlrm_jax.inspect import statistics
from dlrm_jax.inspect.statistics import IdCounts

TOP = (1, 10, 100, 1000)
"""Numbers of most frequent ids whose coverage is reported."""

_QUANTILES = (0, 0.01, 0.25, 0.5, 0.75, 0.99, 1)
_PENDING = 1 << 20  # Entries of counts that wait to be merged.
_UNKNOWN = float('nan')


class SparseReport(NamedTuple):
  """Statistics of a sparse feature; unknown shares are nan.

  Attributes:
    name: name of the feature.
    rows: rows of its table.
    hotness: largest number of ids of an example.
    ids: number of different ids.
    counted: whether `ids` and `coverage` come from the counts of the
      vocabulary, else from the sampled train rows.
    coverage: share of all occurrences that the most frequent 1, 10, 100, 1,000
      and 10 % of ids have.
    curve: numbers of most frequent ids, and the share of each number.
    missing: share of missing values; for bags, of examples without ids.
    unknown: share of test ids in the rows for unknown values.
    unseen: share of test ids that are not in the train sample.
    psi: drift of ids from train to test.
    noise: expected `psi` without drift.
    auc: AUC on test of this feature alone.
    lengths: number of train examples by number of ids.
  """

  name: str
  rows: int
  hotness: int
  ids: int
  counted: bool
  coverage: list[float]
  curve: tuple[list[int], list[float]]
  missing: float
  unknown: float
  unseen: float
  psi: float
  noise: float
  auc: float
  lengths: list[int]


class DenseReport(NamedTuple):
  """Statistics of a dense feature, after its transform.

  Attributes:
    name: name of the feature.
    zeros: share of zeros in train; missing values are zeros.
    quantiles: minimum, 1 %, 25 %, 50 %, 75 %, 99 % and maximum in train.
    psi: drift from train to test.
    noise: expected `psi` without drift.
    auc: AUC on test of this feature alone.
  """

  name: str
  zeros: float
  quantiles: list[float]
  psi: float
  noise: float
  auc: float


class Inspection(NamedTuple):
  """Statistics of a prepared set.

  Attributes:
    read: for each split that was read: its number of blocks, the number of
      blocks read, and their number of rows.
    dense: the dense features.
    sparse: the sparse features.
  """

  read: dict[str, tuple[int, int, int]]
  dense: list[DenseReport]
  sparse: list[SparseReport]


class _SampledRows:
  """Sampled examples: their dense values, labels, and counts of ids."""

  def __init__(self, columns: tuple[Column, ...]) -> None:
    self._columns = columns
    self._waiting: list[list[IdCounts]] = [[] for _ in columns]
    self._dense: list[np.ndarray] = []
    self._labels: list[np.ndarray] = []
    self.lengths = [np.zeros(c.hotness + 1, np.int64) for c in columns]

  def add(self, block: Block) -> None:
    """Adds the examples of a block, without those that lack the first label."""
    block = take(block, ~np.isnan(block.labels[:, 0]))
    self._dense.append(block.dense)
    labels = block.labels[:, 0]
    self._labels.append(labels)
    start = 0
    for number, column in enumerate(self._columns):
      ids = block.ids[:, start : start + column.hotness]
      start += column.hotness
      present = ids >= 0
      lengths = present.sum(1)
      self.lengths[number] += np.bincount(lengths, minlength=column.hotness + 1)
      waiting = self._waiting[number]
      waiting.append(IdCounts.of(ids[present], np.repeat(labels, lengths)))
      later = sum(len(counts.ids) for counts in waiting[1:])
      if later > max(_PENDING, len(waiting[0].ids)):
        waiting[:] = [statistics.merge_counts(waiting)]

  @property
  def dense(self) -> np.ndarray:
    """Dense features, f32[n, N]."""
    return np.concatenate(self._dense)

  @property
  def labels(self) -> np.ndarray:
    """Labels, f32[n]."""
    return np.concatenate(self._labels)

  def counts(self, number: int) -> IdCounts:
    """Counts of the ids of a sparse feature."""
    return statistics.merge_counts(self._waiting[number])


def _blocks(
  prepared: Prepared, split: str, sample: int
) -> tuple[np.ndarray, Iterator[Block]]:
  """Random numbers of blocks, and the blocks in that order."""
  source = prepared.source(split)
  order = np.random.default_rng(0).permutation(len(source))[:sample]
  bar = tqdm(order, f'read {split}', unit=' blocks', disable=None, leave=False)
  return order, (source[int(number)] for number in bar)


def _rows(prepared: Prepared, split: str, order: np.ndarray) -> int:
  """Number of rows of the blocks with these numbers."""
  ends = np.minimum((order + 1) * BLOCK_ROWS, prepared.splits[split])
  return int(np.sum(ends - order * BLOCK_ROWS))


def _read(
  prepared: Prepared, split: str, sample: int, parts: int
) -> tuple[list[_SampledRows], tuple[int, int, int]]:
  """A split in parts of equal size; and its blocks, blocks read, rows read."""
  samples = [_SampledRows(prepared.schema.sparse) for _ in range(parts)]
  order, blocks = _blocks(prepared, split, sample)
  rows, seen = _rows(prepared, split, order), 0
  bounds = [rows * k // parts for k in range(parts + 1)]
  for block in blocks:
    for part, first, last in zip(samples, bounds[:-1], bounds[1:], strict=True):
      part.add(take(block, slice(max(first - seen, 0), max(last - seen, 0))))
    seen += len(block.labels)
  total = -(-prepared.splits[split] // BLOCK_ROWS)
  return samples, (total, len(order), rows)


def _share(counts: IdCounts, chosen: np.ndarray) -> float:
  """Share of the occurrences that chosen ids have."""
  if not counts.total:
    return 0.0
  return float(counts.counts[chosen].sum() / counts.total)


def _counts(prepared: Prepared, name: str) -> tuple[np.ndarray, float] | None:
  """Counts of a vocabulary's rows, if there is one, and share of missing."""
  counts = prepared.counts(name)
  if counts is None:
    return None
  column = prepared.details.get('columns', {}).get(name)
  path = vocabulary_path(Path(prepared.directory), name)
  keys = pl.scan_parquet(path, glob=False)
  first = len(counts) - keys.select(pl.len()).collect().item()
  counts[:first] = 0
  if column:
    counts[:first] = column['unknown']
    missing = column['missing']
  else:
    null = keys.filter(pl.col('key').is_null()).select(pl.col('count').sum())
    missing = null.collect().item()
  return counts, float(missing / max(counts.sum(), 1))


def _first_row(prepared: Prepared, name: str) -> int:
  """First row of a known value; the rows before are for unknown values."""
  column: Mapping[str, Any] = prepared.details.get('columns', {}).get(name, {})
  return column.get('first_row', 1)


def _popularity(
  prepared: Prepared, column: Column, train: IdCounts, lengths: np.ndarray
) -> dict[str, Any]:
  """Coverage and missing values, from the vocabulary if there is one."""
  known = _counts(prepared, column.name)
  counts = train.counts if known is None else known[0]
  ids = int(np.count_nonzero(counts))
  ranks = np.array([*TOP, max(1, ids // 10)])
  curve = np.unique(np.geomspace(1, max(ids, 1), 60).astype(np.int64))
  missing = lengths[0] / max(lengths.sum(), 1)
  if column.hotness == 1 and known is not None:
    missing = known[1]
  elif column.hotness == 1 and not lengths[0]:
    missing = _UNKNOWN  # Missing values are hashed like others.
  return {
    'ids': ids,
    'counted': known is not None,
    'coverage': statistics.coverage(counts, ranks).tolist(),
    'curve': (curve.tolist(), statistics.coverage(counts, curve).tolist()),
    'missing': float(missing),
  }


def _sparse(
  prepared: Prepared,
  number: int,
  halves: list[_SampledRows],
  test: _SampledRows | None,
) -> SparseReport:
  """Statistics of a sparse feature."""
  column = prepared.schema.sparse[number]
  first, second = (half.counts(number) for half in halves)
  train = statistics.merge_counts([first, second])
  lengths = halves[0].lengths[number] + halves[1].lengths[number]
  unknown = unseen = auc = _UNKNOWN
  drift = statistics.Drift(_UNKNOWN, _UNKNOWN)
  popularity = _popularity(prepared, column, train, lengths)
  if test is not None:
    later = test.counts(number)
    new = statistics.positions(train, later.ids) == len(train.ids)
    unseen = _share(later, new)
    if popularity['counted']:
      unknown = _share(later, later.ids < _first_row(prepared, column.name))
    drift = statistics.id_drift(first, second, later)
    if column.hotness == 1:
      auc = statistics.auc_alone(train, later)
  return SparseReport(
    name=column.name,
    rows=column.rows,
    hotness=column.hotness,
    unknown=unknown,
    unseen=unseen,
    psi=drift.psi,
    noise=drift.noise,
    auc=auc,
    lengths=lengths.tolist(),
    **popularity,
  )


def _dense(
  name: str, values: np.ndarray, labels: np.ndarray, test: Any
) -> DenseReport:
  """Statistics of a dense feature; `test` has values and labels, f32[m]."""
  drift, auc = statistics.Drift(_UNKNOWN, _UNKNOWN), _UNKNOWN
  if test is not None:
    edges = statistics.quantile_bins(values)
    train, after = (
      IdCounts.of(np.searchsorted(edges, x), y)
      for x, y in ((values, labels), test)
    )
    bins = np.arange(len(edges) + 1)
    before, later = (
      np.append(counts.counts, 0)[statistics.positions(counts, bins)]
      for counts in (train, after)
    )
    drift = statistics.drift(before, later)
    auc = statistics.auc_alone(train, after)
  quantiles = np.quantile(values, _QUANTILES).tolist()
  zeros = float(np.mean(values == 0))
  return DenseReport(name, zeros, quantiles, drift.psi, drift.noise, auc)


def inspect(prepared: Prepared, sample: int) -> Inspection:
  """Measures a prepared set.

  Args:
    prepared: the set.
    sample: largest number of blocks to read of each split.

  Raises:
    InputError: a block or vocabulary is damaged, or there is no split train.
  """
  halves, read = _read(prepared, 'train', sample, 2)
  reads, test = {'train': read}, None
  later = [s for s in ('test', 'validation') if s in prepared.splits]
  for split in later[:1]:
    (test,), reads[split] = _read(prepared, split, sample, 1)
  dense = np.concatenate([half.dense for half in halves])
  labels = np.concatenate([half.labels for half in halves])
  after = None if test is None else (test.dense, test.labels)
  features = range(len(prepared.schema.sparse))
  bar = tqdm(features, 'features', disable=None, leave=False)
  return Inspection(
    read=reads,
    dense=[
      _dense(
        name,
        dense[:, n],
        labels,
        None if after is None else (after[0][:, n], after[1]),
      )
      for n, name in enumerate(prepared.schema.dense)
    ],
    sparse=[_sparse(prepared, n, halves, test) for n in bar],
  )
