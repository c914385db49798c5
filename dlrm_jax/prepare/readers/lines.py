"""Pieces of text files that have a row on each line, and their line numbers.

A line belongs to the piece in which it begins. A packed file is one piece.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows, Fault
from dlrm_jax.prepare.readers import text_files as files
from dlrm_jax.prepare.readers.archives import DamagedError, file_format
from dlrm_jax.prepare.readers.reader import PIECE_BYTES, Piece, numbered


def cut(path: str, expected: str, *, whole: bool = False) -> list[Piece]:
  """Cuts a file into pieces; into one if it is packed, or if `whole`."""
  size = files.check_lines(path, expected)
  step = size if whole or files.is_packed(path) else PIECE_BYTES
  starts = range(0, size, step)
  return [Piece(path, start, min(start + step, size)) for start in starts]


def about(path: str, expected: str) -> int:
  """Number of lines, estimated from the beginning of the file."""
  files.check_lines(path, expected)
  return files.lines_about(path)


def first_line(path: str, expected: str) -> bytes:
  """The first line of a file without its end; b'' for an empty file.

  Raises:
    InputError: the file is not text, or is damaged within the line.
  """
  size = files.check_lines(path, expected)
  stop = size if files.is_packed(path) else 1
  try:
    for chunk in files.chunks(path, 0, stop, lambda data: None):
      return chunk.split(b'\n', 1)[0].removesuffix(b'\r')
  except DamagedError as damage:
    raise InputError(
      f'{path}, line 1: {damage}; expected a whole file; copy it again'
    ) from None
  return b''


def place(piece: Piece) -> tuple[int, str]:
  """Number of a piece's first line in its file, from 1, and 'line'."""
  path, start, _ = piece
  if not start:
    return 1, 'line'
  return files.lines_before(path, files.line_start(path, start)) + 1, 'line'


class Lines:
  """Reads a piece in chunks of lines, and reports bad lines.

  Attributes:
    line: number, from 0, of the chunk's first line in the piece. The caller
      adds the number of lines of each chunk after processing it.
  """

  def __init__(self, piece: Piece, bad: BadRows) -> None:
    self._piece = piece
    self._bad = bad
    self._first: int | None = None
    self.line = 0

  def _number(self, offset: int) -> int:
    """Number in the file of the line `offset` lines into the chunk."""
    if self._first is None:  # Counting takes long, so only for bad lines.
      self._first, _ = place(self._piece)
    return self._first + self.line + offset

  def add(self, offset: int, fault: Fault) -> None:
    """Reports a bad line, `offset` lines into the chunk."""
    self._bad.add(self._piece.path, self._number(offset), fault)

  def numbered(
    self, frame: pl.DataFrame, lines: Sequence[int] | np.ndarray
  ) -> pl.DataFrame:
    """Rows of a chunk, with the numbers of their lines in `NUMBER`."""
    return numbered(frame, np.asarray(lines, np.uint32) + np.uint32(self.line))

  def chunks(self, digest: Callable[[bytes], object]) -> Iterator[bytes]:
    """Chunks of whole lines with their ends, without a byte order mark."""
    path = self._piece.path
    try:
      yield from files.chunks(*self._piece, digest)
    except DamagedError as damage:
      packing = file_format(path) or ''
      self._bad.lose(path, self._number(0), packing, damage)
