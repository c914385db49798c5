"""What a prepared set is like: a sample of its blocks, and its vocabularies.

Memory does not grow with the set: blocks are drawn at random, each becomes
tallies, and vocabularies are read one at a time. Split train is read in two
halves: what one half says of ids is tried on the other and on split test, so
that a difference between those is not the work of chance.
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
from dlrm_jax.inspect.statistics import Tally

TOP = (1, 10, 100, 1000)
"""Numbers of most frequent ids whose coverage is told; and a tenth of all."""

_QUANTILES = (0, 0.01, 0.25, 0.5, 0.75, 0.99, 1)
_PENDING = 1 << 20  # entries of tallies that wait to be joined
_NOT_KNOWN = float('nan')


class Sparse(NamedTuple):
  """A sparse feature; shares are nan where they can't be known.

  Attributes:
    name: of the feature.
    rows: of its table.
    hotness: ids an example at most.
    ids: different ids in the counts that coverage is of.
    counted: whether those are of all examples counted for the vocabulary.
    coverage: share of the most frequent 1, 10, 100, 1,000, 10 % of ids.
    curve: number of most frequent ids, and their share.
    missing: share of missing values; of bags, of examples without an id.
    unknown: share of test ids in the rows for unknown values.
    unseen: share of test ids that the train sample does not have.
    psi: drift of ids from train to test.
    noise: what that is by chance.
    auc: on test, of the feature alone.
    lengths: examples of train by number of ids.
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


class Dense(NamedTuple):
  """A dense feature, as training sees it; of train but for drift and AUC.

  Attributes:
    name: of the feature.
    zeros: share of zeros; a missing value is one.
    quantiles: least, 1 %, 25 %, 50 %, 75 %, 99 %, greatest.
    psi: drift from train to test.
    noise: what that is by chance.
    auc: on test, of the feature alone.
  """

  name: str
  zeros: float
  quantiles: list[float]
  psi: float
  noise: float
  auc: float


class Inspection(NamedTuple):
  """What was found.

  Attributes:
    read: of each split that was read: its blocks, those read, their rows.
    dense: the dense features.
    sparse: the sparse features.
  """

  read: dict[str, tuple[int, int, int]]
  dense: list[Dense]
  sparse: list[Sparse]


class _Part:
  """What is kept of some examples: dense values, and tallies of ids."""

  def __init__(self, columns: tuple[Column, ...]) -> None:
    self._columns = columns
    self._waiting: list[list[Tally]] = [[] for _ in columns]
    self._dense: list[np.ndarray] = []
    self._labels: list[np.ndarray] = []
    self.lengths = [np.zeros(c.hotness + 1, np.int64) for c in columns]

  def add(self, block: Block) -> None:
    """Counts examples."""
    self._dense.append(block.dense)
    labels = block.labels[:, 0]
    self._labels.append(labels)
    start = 0
    for number, column in enumerate(self._columns):
      ids = block.ids[:, start : start + column.hotness]
      start += column.hotness
      there = ids >= 0
      many = there.sum(1)
      self.lengths[number] += np.bincount(many, minlength=column.hotness + 1)
      waiting = self._waiting[number]
      waiting.append(Tally.of(ids[there], np.repeat(labels, many)))
      later = sum(len(tally.ids) for tally in waiting[1:])
      if later > max(_PENDING, len(waiting[0].ids)):
        waiting[:] = [statistics.joined(waiting)]

  @property
  def dense(self) -> np.ndarray:
    """f32[n, N]."""
    return np.concatenate(self._dense)

  @property
  def labels(self) -> np.ndarray:
    """f32[n]."""
    return np.concatenate(self._labels)

  def tally(self, number: int) -> Tally:
    """Of a sparse feature."""
    return statistics.joined(self._waiting[number])


def _blocks(
  prepared: Prepared, split: str, sample: int
) -> tuple[np.ndarray, Iterator[Block]]:
  """Numbers of blocks drawn at random, and the blocks in that order."""
  source = prepared.source(split)
  order = np.random.default_rng(0).permutation(len(source))[:sample]
  bar = tqdm(order, f'read {split}', unit=' blocks', disable=None, leave=False)
  return order, (source[int(number)] for number in bar)


def _rows(prepared: Prepared, split: str, order: np.ndarray) -> int:
  ends = np.minimum((order + 1) * BLOCK_ROWS, prepared.splits[split])
  return int(np.sum(ends - order * BLOCK_ROWS))


def _read(
  prepared: Prepared, split: str, sample: int, parts: int
) -> tuple[list[_Part], tuple[int, int, int]]:
  """A split in parts of about equal size, and what was read."""
  found = [_Part(prepared.schema.sparse) for _ in range(parts)]
  order, blocks = _blocks(prepared, split, sample)
  rows, seen = _rows(prepared, split, order), 0
  bounds = [rows * k // parts for k in range(parts + 1)]
  for block in blocks:
    for part, first, last in zip(found, bounds[:-1], bounds[1:], strict=True):
      mine = slice(max(first - seen, 0), max(last - seen, 0))
      part.add(take(block, mine))
    seen += len(block.labels)
  total = -(-prepared.splits[split] // BLOCK_ROWS)
  return found, (total, len(order), rows)


def _share(tally: Tally, chosen: np.ndarray) -> float:
  """Of the occurrences."""
  return float(tally.counts[chosen].sum() / tally.total) if tally.total else 0.0


def _counts(prepared: Prepared, name: str) -> tuple[np.ndarray, float] | None:
  """Counts of a vocabulary's rows, and the share of missing values."""
  counts = prepared.counts(name)
  if counts is None:
    return None
  said = prepared.details.get('columns', {}).get(name)
  path = vocabulary_path(Path(prepared.directory), name)
  keys = pl.scan_parquet(path)
  first = len(counts) - keys.select(pl.len()).collect().item()
  counts[:first] = 0
  if said:
    counts[:first] = said['unknown']
    missing = said['missing']
  else:
    null = keys.filter(pl.col('key').is_null()).select(pl.col('count').sum())
    missing = null.collect().item()
  return counts, float(missing / max(counts.sum(), 1))


def _first_row(prepared: Prepared, name: str) -> int:
  """Of the values of a vocabulary; rows before it are for unknown ones."""
  said: Mapping[str, Any] = prepared.details.get('columns', {}).get(name, {})
  return said.get('first_row', 1)


def _popularity(
  prepared: Prepared, column: Column, train: Tally, lengths: np.ndarray
) -> dict[str, Any]:
  """Coverage and missing share, of the vocabulary if there is one."""
  known = _counts(prepared, column.name)
  counts = train.counts if known is None else known[0]
  ids = int(np.count_nonzero(counts))
  ranks = np.array([*TOP, max(1, ids // 10)])
  curve = np.unique(np.geomspace(1, max(ids, 1), 60).astype(np.int64))
  missing = lengths[0] / max(lengths.sum(), 1)
  if column.hotness == 1 and known is not None:
    missing = known[1]
  elif column.hotness == 1 and not lengths[0]:
    missing = _NOT_KNOWN  # hashed with the others
  return {
    'ids': ids,
    'counted': known is not None,
    'coverage': statistics.coverage(counts, ranks).tolist(),
    'curve': (curve.tolist(), statistics.coverage(counts, curve).tolist()),
    'missing': float(missing),
  }


def _sparse(
  prepared: Prepared, number: int, halves: list[_Part], test: _Part | None
) -> Sparse:
  """One sparse feature."""
  column = prepared.schema.sparse[number]
  rule, rest = (half.tally(number) for half in halves)
  train = statistics.joined([rule, rest])
  lengths = halves[0].lengths[number] + halves[1].lengths[number]
  unknown = unseen = auc = _NOT_KNOWN
  drift = statistics.Drift(_NOT_KNOWN, _NOT_KNOWN)
  said = _popularity(prepared, column, train, lengths)
  if test is not None:
    tally = test.tally(number)
    unseen = _share(tally, statistics.found(train, tally.ids) == len(train.ids))
    if said['counted']:
      unknown = _share(tally, tally.ids < _first_row(prepared, column.name))
    drift = statistics.id_drift(rule, rest, tally)
    if column.hotness == 1:
      auc = statistics.auc_alone(train, tally)
  return Sparse(
    name=column.name,
    rows=column.rows,
    hotness=column.hotness,
    unknown=unknown,
    unseen=unseen,
    psi=drift.psi,
    noise=drift.noise,
    auc=auc,
    lengths=lengths.tolist(),
    **said,
  )


def _dense(
  name: str, values: np.ndarray, labels: np.ndarray, test: Any
) -> Dense:
  """One dense feature: f32[n] and labels of train, the same of test."""
  drift, auc = statistics.Drift(_NOT_KNOWN, _NOT_KNOWN), _NOT_KNOWN
  if test is not None:
    edges = statistics.quantile_bins(values)
    train, after = (
      Tally.of(np.searchsorted(edges, x), y)
      for x, y in ((values, labels), test)
    )
    bins = np.arange(len(edges) + 1)
    before, later = (
      np.append(t.counts, 0)[statistics.found(t, bins)] for t in (train, after)
    )
    drift = statistics.drift(before, later)
    auc = statistics.auc_alone(train, after)
  quantiles = np.quantile(values, _QUANTILES).tolist()
  zeros = float(np.mean(values == 0))
  return Dense(name, zeros, quantiles, drift.psi, drift.noise, auc)


def inspect(prepared: Prepared, sample: int) -> Inspection:
  """Looks at a set.

  Args:
    prepared: the set.
    sample: blocks to read of a split at most.

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
