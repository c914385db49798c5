"""The columns of a click log, its blocks of rows, and sources of blocks.

Readers turn raw files into `Block`s, a `Source` gives blocks by number, the
loader cuts them into batches. A block is the unit of storage and of reading:
thousands of examples, so that no Python code runs for a single one.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

BLOCK_ROWS = 4096
"""Examples in a block; only the last block of a split has fewer."""

LABELS = ('click',)
"""The label of a log that has one."""


@dataclasses.dataclass(frozen=True)
class Column:
  """A sparse column.

  Attributes:
    name: name of the column, for example 'C1'.
    rows: size of its vocabulary; ids are 0 ... rows - 1.
    hotness: most ids that an example can have; shorter bags end in PAD.
  """

  name: str
  rows: int
  hotness: int = 1


@dataclasses.dataclass(frozen=True)
class Schema:
  """The columns of a click log, in the order that they have in a block.

  Attributes:
    dense: names of the dense columns.
    sparse: the sparse columns.
    labels: names of the labels, one for each task.
    grouped: whether examples have groups, for metrics within groups.
  """

  dense: tuple[str, ...]
  sparse: tuple[Column, ...]
  labels: tuple[str, ...] = LABELS
  grouped: bool = False

  @property
  def hotness(self) -> int:
    """H, the number of ids an example."""
    return sum(column.hotness for column in self.sparse)

  def to_json(self) -> dict[str, Any]:
    """The schema as JSON can hold it; a single label is left out.

    So is the field of groups where there are none. Sets of one label without
    groups have the digests that they had before there were these fields.
    """
    fields: dict[str, Any] = {
      'dense': list(self.dense),
      'sparse': [dataclasses.asdict(column) for column in self.sparse],
    }
    if self.labels != LABELS:
      fields['labels'] = list(self.labels)
    if self.grouped:
      fields['grouped'] = True
    return fields

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> Self:
    """The inverse of `to_json`."""
    return cls(
      tuple(fields['dense']),
      tuple(Column(**column) for column in fields['sparse']),
      tuple(fields.get('labels', LABELS)),
      fields.get('grouped', False),
    )


class Scale(NamedTuple):
  """Mean and deviation of the dense features of the training examples.

  Attributes:
    mean: mean of each feature, N numbers.
    deviation: standard deviation of each feature, N numbers.
  """

  mean: tuple[float, ...]
  deviation: tuple[float, ...]


class Block(NamedTuple):
  """`n` consecutive examples of a click log.

  Attributes:
    dense: f32[n, N], transformed.
    ids: i32[n, H], PAD where a bag has no more ids.
    labels: f32[n, T], 0 or 1; NaN where an example has no label for a task.
    id_weights: f32[n, H], or None: every id counts once.
    weights: f32[n], or None: every example counts once.
    group: i32[n], the group of each example, `NO_GROUP` for none; None: the
      log has no groups.
  """

  dense: np.ndarray
  ids: np.ndarray
  labels: np.ndarray
  id_weights: np.ndarray | None = None
  weights: np.ndarray | None = None
  group: np.ndarray | None = None


def each(block: Block, change: Callable[[np.ndarray], np.ndarray]) -> Block:
  """Applies a function to each array of a block."""

  def of(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else change(array)

  dense, ids, labels, *others = block
  return Block(change(dense), change(ids), change(labels), *map(of, others))


def take(block: Block, rows: np.ndarray | slice) -> Block:
  """Selects examples of a block, by number or slice."""
  return each(block, lambda array: array[rows])


def join(blocks: list[Block]) -> Block:
  """Concatenates blocks; at least one."""
  if len(blocks) == 1:
    return blocks[0]

  def of(arrays: tuple) -> np.ndarray | None:
    return None if arrays[0] is None else np.concatenate(arrays)

  dense, ids, labels, *others = zip(*blocks, strict=True)
  return Block(
    np.concatenate(dense),
    np.concatenate(ids),
    np.concatenate(labels),
    *map(of, others),
  )


class Source(Protocol):
  """Blocks of a split by number; any number of threads may read.

  Attributes:
    schema: the columns.
    examples: number of examples in all blocks. Every block has `BLOCK_ROWS`
      examples, except the last, which has the rest.
  """

  schema: Schema
  examples: int

  def __len__(self) -> int:
    """Number of blocks."""
    ...

  def __getitem__(self, block: int) -> Block:
    """The block of this number."""
    ...


class Data(Protocol):
  """A click log with splits: prepared or synthetic.

  Attributes:
    schema: the columns.
    splits: number of examples of each split.
    clicks: number of clicks of each split; empty where they are not known
      before the data is read.
    scale: mean and deviation of the dense features in split train.
    details: how the data was made; 'ids' is equal where ids mean the same.
    fingerprint: a digest that is equal for equal data only.
  """

  @property
  def schema(self) -> Schema: ...  # noqa: D102

  @property
  def splits(self) -> Mapping[str, int]: ...  # noqa: D102

  @property
  def clicks(self) -> Mapping[str, int]: ...  # noqa: D102

  @property
  def scale(self) -> Scale: ...  # noqa: D102

  @property
  def details(self) -> Mapping[str, Any]: ...  # noqa: D102

  @property
  def fingerprint(self) -> str: ...  # noqa: D102

  def source(self, split: str) -> Source: ...  # noqa: D102

  def count_pieces(self, feature: str) -> Iterable[np.ndarray] | None:
    """Counts of each id in split train, in pieces; None: they are unknown."""
    ...
