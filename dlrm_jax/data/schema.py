"""What a click log looks like: its columns, its blocks of rows, a source.

Readers turn raw files into `Block`s, a `Source` hands blocks out by number,
the loader cuts them into batches. A block is the unit of storage and of
reading: thousands of examples, so that no Python runs for a single one.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

BLOCK_ROWS = 4096
"""Examples in a block; only the last block of a split has fewer."""


@dataclasses.dataclass(frozen=True)
class Column:
  """One sparse feature.

  Attributes:
    name: the feature's name, for example 'C1'.
    rows: vocabulary size; ids are 0 ... rows - 1.
    hotness: ids an example can have at most; shorter bags end in PAD.
  """

  name: str
  rows: int
  hotness: int = 1


@dataclasses.dataclass(frozen=True)
class Schema:
  """The columns of a click log, in the order that they have in a block.

  Attributes:
    dense: names of the dense features.
    sparse: the sparse features.
  """

  dense: tuple[str, ...]
  sparse: tuple[Column, ...]

  @property
  def hotness(self) -> int:
    """Ids an example: `H`."""
    return sum(column.hotness for column in self.sparse)


class Scale(NamedTuple):
  """What the dense features of the training examples are like.

  Attributes:
    mean: of each, N numbers.
    deviation: standard deviation of each, N numbers.
  """

  mean: tuple[float, ...]
  deviation: tuple[float, ...]


class Block(NamedTuple):
  """Consecutive examples of a click log; `n` of them.

  Attributes:
    dense: f32[n, N], transformed.
    ids: i32[n, H], PAD where a bag has no more ids.
    labels: f32[n], 0 or 1.
    id_weights: f32[n, H], or None: every id counts once.
    weights: f32[n], or None: every example counts once.
  """

  dense: np.ndarray
  ids: np.ndarray
  labels: np.ndarray
  id_weights: np.ndarray | None = None
  weights: np.ndarray | None = None


def each(block: Block, change: Callable[[np.ndarray], np.ndarray]) -> Block:
  """A block of what `change` makes of each of its arrays."""

  def of(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else change(array)

  dense, ids, labels, id_weights, weights = block
  return Block(
    change(dense), change(ids), change(labels), of(id_weights), of(weights)
  )


def take(block: Block, rows: np.ndarray | slice) -> Block:
  """Examples of a block, by number or slice."""
  return each(block, lambda array: array[rows])


def join(blocks: list[Block]) -> Block:
  """Blocks one after the other; at least one."""
  if len(blocks) == 1:
    return blocks[0]

  def of(arrays: tuple) -> np.ndarray | None:
    return None if arrays[0] is None else np.concatenate(arrays)

  dense, ids, labels, id_weights, weights = zip(*blocks, strict=True)
  return Block(
    np.concatenate(dense),
    np.concatenate(ids),
    np.concatenate(labels),
    of(id_weights),
    of(weights),
  )


class Source(Protocol):
  """Blocks of one split by number; any number of threads may read.

  Attributes:
    schema: the columns.
    examples: examples in all blocks together. Every block has `BLOCK_ROWS`
      examples, but the last, which has the rest.
  """

  schema: Schema
  examples: int

  def __len__(self) -> int:
    """Number of blocks."""
    ...

  def __getitem__(self, block: int) -> Block:
    """The block of this number."""
    ...
