"""Raw logs that are text, a row a line: pieces, whole lines, their numbers.

A piece owns the lines that begin in it; a packed file is one piece.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows, Fault
from dlrm_jax.prepare.readers import text_files as files
from dlrm_jax.prepare.readers.archives import DamagedError, kind_of
from dlrm_jax.prepare.readers.reader import PIECE_BYTES, Piece, numbered


def cut(path: str, expected: str, whole: bool = False) -> list[Piece]:
  """Pieces of a file; one where it is packed, or one is asked for."""
  size = files.check_lines(path, expected)
  step = size if whole or files.is_packed(path) else PIECE_BYTES
  starts = range(0, size, step)
  return [Piece(path, start, min(start + step, size)) for start in starts]


def about(path: str, expected: str) -> int:
  """How many lines a file has, estimated from its head and its size."""
  files.check_lines(path, expected)
  return files.lines_about(path)


def first_line(path: str, expected: str) -> bytes:
  """The first line of a file without its end; b'' where there is none.

  Raises:
    InputError: the file is no text, or damaged before the line ends.
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
  """Number of a piece's first line in its file, and what is counted."""
  path, start, _ = piece
  if not start:
    return 1, 'line'
  return files.lines_before(path, files.line_start(path, start)) + 1, 'line'


class Lines:
  """The lines of a piece, in chunks, with what is wrong with them.

  Attributes:
    line: number of the next chunk's first line, from 0, in the piece; who
      reads adds the lines of each chunk when it is done with it.
  """

  def __init__(self, piece: Piece, bad: BadRows) -> None:
    self._piece = piece
    self._bad = bad
    self._first: int | None = None
    self.line = 0

  def _number(self, offset: int) -> int:
    """Of a line, `offset` lines into the chunk, in the file."""
    if self._first is None:  # Looked at only for who has bad lines.
      self._first, _ = place(self._piece)
    return self._first + self.line + offset

  def add(self, offset: int, fault: Fault) -> None:
    """Takes note of a bad line, `offset` lines into the chunk."""
    self._bad.add(self._piece.path, self._number(offset), fault)

  def numbered(
    self, frame: pl.DataFrame, lines: Sequence[int] | np.ndarray
  ) -> pl.DataFrame:
    """Rows of a chunk, with the numbers of their lines (`raw.NUMBER`)."""
    return numbered(frame, np.asarray(lines, np.uint32) + np.uint32(self.line))

  def chunks(self, digest: Callable[[bytes], object]) -> Iterator[bytes]:
    """Whole lines with their ends; a byte order mark is left out."""
    path = self._piece.path
    try:
      yield from files.chunks(*self._piece, digest)
    except DamagedError as damage:
      self._bad.lose(path, self._number(0), kind_of(path), damage)
