"""Raw logs that are text, a row a line: pieces, whole lines, their numbers.

A piece owns the lines that begin in it; a gzip file is one piece.
"""

from collections.abc import Callable, Iterator

from dlrm_jax.data import criteo_files as files
from dlrm_jax.data.bad_rows import BadRows, Fault
from dlrm_jax.data.raw import PIECE_BYTES, Piece

_BOM = b'\xef\xbb\xbf'


def cut(path: str, whole: bool = False) -> list[Piece]:
  """Pieces of a file; one where it is compressed, or one is asked for."""
  size = files.check_readable(path)
  step = size if whole or files.is_gzip(path) else PIECE_BYTES
  starts = range(0, size, step)
  return [Piece(path, start, min(start + step, size)) for start in starts]


def about(path: str) -> int:
  """How many lines a file has, estimated from its head and its size."""
  size = files.check_readable(path)
  head, lines = files.head_lines(path)
  return max(1, size * lines // head)


def first_line(path: str) -> bytes:
  """The first line of a file without its end; b'' where there is none."""
  size = files.check_readable(path)
  stop = size if files.is_gzip(path) else 1
  try:
    for chunk in files.chunks(path, 0, stop, lambda data: None):
      return chunk.split(b'\n', 1)[0].removeprefix(_BOM).removesuffix(b'\r')
  except files.DamagedError:
    pass  # Who reads the rows says so.
  return b''


class Lines:
  """The lines of a piece, in chunks, with what is wrong with them.

  Attributes:
    line: number of the next chunk's first line, from 0, in the piece; who
      reads adds the lines of each chunk when it is done with it.
  """

  def __init__(self, piece: Piece, bad: BadRows) -> None:
    self._piece = piece
    self._bad = bad
    self._before: int | None = None
    self.line = 0

  def add(self, offset: int, fault: Fault) -> None:
    """Takes note of a bad line, `offset` lines into the chunk."""
    path, start, _ = self._piece
    if self._before is None:  # Looked at only for who has bad lines.
      begin = files.line_start(path, start)
      self._before = files.lines_before(path, begin) if start else 0
    self._bad.add(path, self._before + self.line + offset + 1, fault)

  def chunks(self, digest: Callable[[bytes], object]) -> Iterator[bytes]:
    """Whole lines with their ends; a byte order mark is left out."""
    first = self._piece.start == 0
    try:
      for chunk in files.chunks(*self._piece, digest):
        yield chunk.removeprefix(_BOM) if first else chunk
        first = False
    except files.DamagedError as damage:
      expected = 'a whole file; copy it again'
      self.add(0, Fault('damaged gzip', None, str(damage), expected))
