"""Raw click logs of any format: what a reader gives to `prepare`.

A reader cuts a file in pieces, and turns a piece into frames of good rows.
Pieces are read by several workers at once, so a reader is a frozen dataclass
that can be pickled, and a piece is a function of the file alone.

A frame has, in this order,

    label      UInt8 or Float32, 0 or 1; or Int8: -1, 0 or 1
    dense      numbers as in the file, null where missing
    sparse     values: UInt32, Int64 (as `keys` has those of 64 bits unsigned)
               or String, null where missing; for a bag a List of them
    NAME.weights  List(Float32) beside a bag that has weights
    weight     Float32, of the example, where the log has it
    time       Float64, where the log has it: the later, the greater
    NUMBER     UInt32, of the row's line (or row) in its piece, from 0

`fitting` takes the last one away, and rows that fit no table; a label of -1 is
0 from there on.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl

from dlrm_jax.data.bad_rows import BadRows

PIECE_BYTES = 64 << 20
"""Of uncompressed text in a piece, about."""

FRAME_ROWS = 1 << 18
"""A frame has no more rows."""


NUMBER = '/number'
"""A column of frames. No feature has a slash in its name."""


@dataclasses.dataclass(frozen=True)
class Dense:
  """A dense column.

  Attributes:
    name: of the feature.
    transform: 'log1p' (log(max(x, 0) + 1)), 'log3' (log(x + 3)), or 'none';
      a missing value is 0 before it.
  """

  name: str
  transform: str = 'none'


@dataclasses.dataclass(frozen=True)
class Sparse:
  """A sparse column.

  Attributes:
    name: of the feature.
    ids: how values become rows: 'vocabulary' (counted), 'hashed', or 'rows'
      (they are rows already, 0 ... rows - 1).
    rows: of 'hashed' and 'rows'.
    hotness: ids an example at most; 0: those of the longest bag.
    bag: whether values are lists.
    weighted: whether a bag has weights.
    modulo: rows of the table, modulo which those of a vocabulary are taken;
      0: it has all of them.
    expand: whether one value becomes a bag of `hotness` (see `multi_hot`).
  """

  name: str
  ids: str = 'vocabulary'
  rows: int = 0
  hotness: int = 1
  bag: bool = False
  weighted: bool = False
  modulo: int = 0
  expand: bool = False


@dataclasses.dataclass(frozen=True)
class Columns:
  """The columns that a reader gives; label comes first and is always there.

  Attributes:
    dense: those of numbers.
    sparse: those of ids.
    weight: whether examples have weights.
    time: whether they have a time.
    label: the name that files have for the label; '': it has none.
  """

  dense: tuple[Dense, ...]
  sparse: tuple[Sparse, ...]
  weight: bool = False
  time: bool = False
  label: str = ''


def flat(column: Sparse, frame: pl.DataFrame) -> pl.Series:
  """All values of a sparse column, bags one after the other."""
  values = frame[column.name]
  if column.bag:
    values = values.filter(values.list.len() > 0).explode()
  return values


def numbered(frame: pl.DataFrame, numbers: np.ndarray) -> pl.DataFrame:
  """A frame with the column `NUMBER`."""
  return frame.hstack([pl.Series(NUMBER, numbers, pl.UInt32)])


def kept(frame: pl.DataFrame, bad: Sequence[int]) -> np.ndarray:
  """Numbers, from 0, of the rows that are left without some bad ones.

  Args:
    frame: the rows that are left.
    bad: numbers of the others.
  """
  numbers = np.arange(frame.height + len(bad), dtype=np.uint32)
  return np.delete(numbers, bad) if bad else numbers


class Piece(NamedTuple):
  """A part of a file that is read by one worker.

  Attributes:
    path: the file.
    start: where it begins, in the reader's unit (bytes, rows, row groups).
    stop: where the next one begins.
  """

  path: str
  start: int
  stop: int


class Reader(Protocol):
  """A format of raw logs."""

  @property
  def columns(self) -> Columns:
    """What frames have."""
    ...

  def pieces(self, path: str) -> list[Piece]:
    """Cuts a file, in order, without reading it through.

    Raises:
      InputError: the file is missing, empty, or of another format.
    """
    ...

  def about(self, path: str) -> int:
    """How many rows a file has, estimated from its head and its size."""
    ...

  def place(self, piece: Piece) -> tuple[int, str]:
    """Where a piece begins in its file, for messages.

    Returns:
      Number of the row that has `NUMBER` 0, from 1, and what is counted:
      'line' or 'row'.
    """
    ...

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The good rows of a piece in their order, in frames.

    Args:
      piece: what to read.
      bad: what to do with bad rows.
      digest: takes the bytes of the piece, or what stands for them, in order.

    Raises:
      InputError: a bad row, unless `bad` skips.
    """
    ...
