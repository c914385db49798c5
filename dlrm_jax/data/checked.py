"""Checks of blocks: all examples are there, and ids are rows of their tables.

A gather on a device accepts any number as a row, so an id out of range would
silently train a wrong row. Ids are checked on the host, a block or a batch at
a time. An id out of range ends the run, or becomes row 0 and is counted.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dlrm_jax.batch import PAD
from dlrm_jax.data.schema import BLOCK_ROWS, Block, Column, Schema, Source
from dlrm_jax.errors import InputError
from dlrm_jax.vocabulary.policy import STOP, UNKNOWN

_UNKNOWN_ROW = 0


class NegativeWeight(NamedTuple):
  """A negative weight of an id of a feature that is pooled by its mean."""

  feature: str
  row: int
  weight: float


def negative_weight(
  schema: Schema, means: Sequence[str], id_weights: np.ndarray | None
) -> NegativeWeight | None:
  """The first negative weight of features with mean pooling; None without one.

  The sum of such weights could be 0.

  Args:
    schema: the columns.
    means: names of the features with mean pooling.
    id_weights: f32[n, H], or None.
  """
  if id_weights is None or not means:
    return None
  names = [c.name for c in schema.sparse for _ in range(c.hotness)]
  wrong = (id_weights < 0) & np.isin(names, means)
  if not wrong.any():
    return None
  row, position = np.argwhere(wrong)[0]
  weight = float(id_weights[row, position])
  return NegativeWeight(names[position], int(row), weight)


@dataclasses.dataclass(frozen=True)
class Checker:
  """The ids that are allowed.

  Attributes:
    schema: the columns; an id is 0 ... rows - 1 of its column, or PAD.
    name: name of the data set and split, for messages.
    out_of_range: 'stop': another id is an error; 'unknown': it becomes row 0.
    means: features with mean pooling, whose weights must not be negative.
  """

  schema: Schema
  name: str
  out_of_range: str = STOP
  means: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    if self.out_of_range not in (STOP, UNKNOWN):
      raise InputError(
        f'out_of_range is {self.out_of_range!r}; expected {STOP} or {UNKNOWN}'
      )

  def check(self, block: Block, number: int) -> Block:
    """The same block, if nothing in it is an error.

    Args:
      block: block of a source.
      number: number of the block, for messages.

    Raises:
      InputError: an id is out of range and `out_of_range` is 'stop', or a
        weight is negative.
    """
    self._check_weights(block, number)
    if self.out_of_range == UNKNOWN:
      return block
    wrong = self._wrong(block.ids)
    if not wrong.any():
      return block
    row, position = np.argwhere(wrong)[0]
    column = self._columns[position]
    raise InputError(
      f'{self.name}, block {number}: feature {column.name} has id '
      f'{block.ids[row, position]} in example {row} of the block; expected 0 '
      f'... {column.rows - 1}. Prepare the data again, or map such ids to the '
      f'unknown row with config.data.out_of_range=unknown'
    )

  @property
  def _columns(self) -> list[Column]:
    """The feature of each column of ids."""
    return [c for c in self.schema.sparse for _ in range(c.hotness)]

  def _check_weights(self, block: Block, number: int) -> None:
    if found := negative_weight(self.schema, self.means, block.id_weights):
      raise InputError(
        f'{self.name}, block {number}: feature {found.feature} has an id of '
        f'weight {found.weight:g} in example {found.row} of the block; weights '
        f'of a mean must not be negative: set config.tables.pooling=sum, or '
        f'prepare the data without weights'
      )

  def mend(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps ids out of range to row 0 if `out_of_range` is 'unknown'.

    Args:
      ids: ids of k batches, i32[k, B, H].

    Returns:
      Ids that are all in range, and the number of mapped ids, i64[k].
    """
    counts = np.zeros(len(ids), np.int64)
    if self.out_of_range == STOP:
      return ids, counts
    wrong = self._wrong(ids)
    if not wrong.any():
      return ids, counts
    counts += np.count_nonzero(wrong, axis=(1, 2))
    return np.where(wrong, np.int32(_UNKNOWN_ROW), ids), counts

  def _wrong(self, ids: np.ndarray) -> np.ndarray:
    columns = self.schema.sparse
    bounds = np.repeat(
      np.array([c.rows for c in columns], ids.dtype),
      [c.hotness for c in columns],
    )
    return (ids < PAD) | (ids >= bounds)


class Checked:
  """The blocks of a source, checked when they are read."""

  def __init__(self, source: Source, checker: Checker) -> None:
    self._source, self._checker = source, checker
    self.examples = source.examples

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, number: int) -> Block:
    block = self._source[number]
    rows = len(block.labels)
    expected = min(BLOCK_ROWS, self.examples - number * BLOCK_ROWS)
    if rows != expected:
      raise InputError(
        f'{self._checker.name}, block {number}: {rows} examples, expected '
        f'{expected}; prepare the data again'
      )
    return self._checker.check(block, number)
