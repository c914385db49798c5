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

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl

from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.vocabulary.columns import Columns

PIECE_BYTES = 64 << 20
"""Of uncompressed text in a piece, about."""

FRAME_ROWS = 1 << 18
"""A frame has no more rows."""


NUMBER = '/number'
"""A column of frames. No feature has a slash in its name."""


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
