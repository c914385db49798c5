"""The interface of readers: raw click logs of any format.

A reader cuts a file into pieces, and reads a piece as frames of good rows.
Several workers read pieces at the same time. So a reader is a frozen dataclass
that can be pickled, and the pieces depend on the file alone.

The columns of a frame, in this order:

    label         UInt8 or Float32, 0 or 1; or Int8: -1, 0 or 1. Of several
                  labels label/NAME, null where missing
    dense         numbers as in the file, null where missing
    sparse        UInt32, Int64 (see `keys` for unsigned integers) or String,
                  null where missing; a List of these for a bag
    NAME.weights  List(Float32), behind a bag with weights
    weight        Float32, weight of the example, if the log has one
    time          Float64, rising with time, if the log has one
    GROUP         as a sparse column, if the log has groups
    NUMBER        UInt32, number of the line or row in its piece, from 0

Rows to score need no label, weight, time and group: frames may lack these. They
may have columns to keep; then bad rows stay, too, and BAD marks them.

`fitting` removes `NUMBER` and the rows that fit no table, and turns labels of
-1 into 0.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl

from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.vocabulary.columns import Columns

PIECE_BYTES = 64 << 20
"""Approximate size of a piece of uncompressed text."""

FRAME_ROWS = 1 << 18
"""Largest number of rows of a frame."""

NUMBER = '/number'
"""Name of the column of row numbers; no feature has a slash in its name."""


BAD = '/bad'
"""Name of the column that marks the bad rows of a frame, where it has them."""


def numbered(frame: pl.DataFrame, numbers: np.ndarray) -> pl.DataFrame:
  """Adds the column `NUMBER` to a frame."""
  return frame.hstack([pl.Series(NUMBER, numbers, pl.UInt32)])


def kept(frame: pl.DataFrame, bad: Sequence[int]) -> np.ndarray:
  """Numbers, from 0, of the good rows of a piece, u32[n].

  Args:
    frame: the n good rows.
    bad: numbers of the bad rows.
  """
  numbers = np.arange(frame.height + len(bad), dtype=np.uint32)
  return np.delete(numbers, bad) if bad else numbers


class Piece(NamedTuple):
  """A part of a file, which one worker reads.

  Attributes:
    path: the file.
    start: its first byte or row, depending on the reader.
    stop: first byte or row of the next piece.
  """

  path: str
  start: int
  stop: int


class Reader(Protocol):
  """A format of raw logs."""

  @property
  def columns(self) -> Columns:
    """Columns of the frames."""
    ...

  def pieces(self, path: str) -> list[Piece]:
    """Cuts a file into pieces, in order, without reading all of it.

    Raises:
      InputError: the file is missing, empty, or of another format.
    """
    ...

  def about(self, path: str) -> int:
    """Number of rows of a file, exact or estimated from its beginning."""
    ...

  def place(self, piece: Piece) -> tuple[int, str]:
    """Place of a piece in its file, for messages.

    Returns:
      Number in the file, from 1, of the line or row whose `NUMBER` is 0, and
      the unit: 'line' or 'row'.
    """
    ...

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The good rows of a piece, in order, in frames.

    Args:
      piece: the piece to read.
      bad: receives the bad rows.
      digest: called with the content of the piece, in order.

    Raises:
      InputError: a row is bad, and `bad` does not skip bad rows.
    """
    ...
