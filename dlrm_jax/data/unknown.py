"""Counts of ids with the unknown row, which no training value has.

A log of another kind, or with values that are spelled in another way, can be
read without an error; then nearly all of its ids are unknown.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.batch import PAD, Batch
from dlrm_jax.cluster import agreement
from dlrm_jax.data.folder import vocabulary_path
from dlrm_jax.data.prepared import Prepared
from dlrm_jax.data.schema import Schema

_MOST, _ABOVE = 0.5, 0.25
"""A share of unknown ids is warned of if it is above the first number and above
the share in training by the second. Later rows of a log stay far below: new
users of MovieLens make a share of 0.4."""

_SHOWN = 4


class UnknownRow(NamedTuple):
  """The row of a feature's unknown values, and its count in training.

  Attributes:
    row: row of the values that are not in the vocabulary.
    ids: number of ids in the rows that were counted for the vocabulary.
    unknown: number of these ids that have the row.
  """

  row: int
  ids: int
  unknown: int


def unknown_rows(prepared: Prepared) -> dict[str, UnknownRow]:
  """The unknown row of each feature that has one.

  Features without a vocabulary (hashed values, rows of tables) have none, nor
  has a vocabulary whose rows are taken modulo a number.
  """
  details = prepared.details
  if details.get('kind') == 'movielens' and 'columns' not in details:
    # Prepared by an earlier version, which counted every training value.
    return {
      column.name: UnknownRow(0, 1, 0)
      for column in prepared.schema.sparse
      if column.name != 'genres'
    }
  log = details.get('format', {})
  if log.get('multi_hot') or log.get('num_embeddings'):
    return {}
  columns = details.get('columns', {})
  some = any(counted['unknown'] for counted in columns.values())
  return {
    name: UnknownRow(
      counted['first_row'] - 1,
      _total(prepared, name, counted) if some else 1,
      counted['unknown'],
    )
    for name, counted in columns.items()
    if counted['first_row']
  }


def _total(prepared: Prepared, name: str, counted: Mapping[str, Any]) -> int:
  """Number of values of a column that were counted for its vocabulary."""
  if 'total' in counted:
    return counted['total']
  # Sets of earlier versions do not have the total.
  path = vocabulary_path(Path(prepared.directory), name)
  known = (
    pl.scan_parquet(path, glob=False).select(pl.col('count').sum()).collect()
  )
  return int(known.item()) + counted['unknown']


class Shares(NamedTuple):
  """Shares of unknown ids in the examined rows and in training.

  Attributes:
    now: share of all ids in the examined rows.
    training: share of all ids in the rows that were counted in training.
    features: both shares of each feature, highest share first.
  """

  now: float
  training: float
  features: Mapping[str, tuple[float, float]]

  def to_json(self) -> dict[str, Any]:
    """The shares as a JSON value."""
    return {
      'share': self.now,
      'training': self.training,
      'features': {
        name: {'share': now, 'training': before}
        for name, (now, before) in self.features.items()
      },
    }

  def lines(self) -> Iterator[str]:
    """Lines to print: the shares, and a warning if they are high."""
    most = [
      f'{name} {_percent(now)} ({_percent(before)})'
      for name, (now, before) in self.features.items()
      if now
    ]
    features = f'; most: {", ".join(most[:_SHOWN])}' if most else ''
    yield (
      f'unknown ids: {_percent(self.now)} (in training '
      f'{_percent(self.training)}){features}'
    )
    if self.now > max(_MOST, self.training + _ABOVE):
      yield (
        f'WARNING: {_percent(self.now)} of the ids are unknown to the model: '
        'expected a log of the same kind as in training, its values written '
        'in the same way; these results say little'
      )


def _percent(share: float) -> str:
  return f'{share:.1%}'


class UnknownIds:
  """Counts the unknown ids of examples, by feature."""

  def __init__(self, schema: Schema, rows: Mapping[str, UnknownRow]) -> None:
    self._rows = rows
    self._names = [c.name for c in schema.sparse for _ in range(c.hotness)]
    # No id has the value that stands for features without an unknown row.
    self._unknown = np.array(
      [rows[n].row if n in rows else PAD - 1 for n in self._names], np.int64
    )
    self._counts = np.zeros((2, len(self._names)), np.int64)

  def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches."""
    for batch in batches:
      self.count(np.asarray(batch.inputs.ids))
      yield batch

  def count(self, ids: np.ndarray) -> None:
    """Counts the ids of some examples, i32[B, H]."""
    self._counts[0] += np.count_nonzero(ids == self._unknown, axis=0)
    self._counts[1] += np.count_nonzero(ids != PAD, axis=0)

  def shares(self) -> Shares | None:
    """Shares over the batches of all processes; every process must call it.

    None if no feature has an unknown row.
    """
    if not self._rows:
      return None
    unknown, ids = agreement.total_of(self._counts)
    counts = {
      name: np.array([unknown[at].sum(), ids[at].sum()])
      for name in self._rows
      for at in [[n == name for n in self._names]]
    }
    shares = {
      name: (
        float(count[0] / max(1, count[1])),
        self._rows[name].unknown / max(1, self._rows[name].ids),
      )
      for name, count in counts.items()
    }
    total = np.sum(list(counts.values()), axis=0)
    before = np.sum([row[1:] for row in self._rows.values()], axis=0)
    return Shares(
      float(total[0] / max(1, total[1])),
      float(before[1] / max(1, before[0])),
      dict(sorted(shares.items(), key=lambda item: -item[1][0])),
    )
