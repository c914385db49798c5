"""Criteo click logs, plain or gzip, as chunks of whole lines.

Memory is bounded: by `CHUNK_BYTES` and the longest line, which is no longer.
"""

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from dlrm_jax.errors import InputError

CHUNK_BYTES = 4 << 20
"""Of text, at a time; no line can be longer. (Larger ones leave the cache.)"""

_GZIP = b'\x1f\x8b'
_READ_BYTES = 1 << 20
_HEAD_BYTES = 1 << 18


class DamagedError(Exception):
  """A gzip stream breaks off; says why."""


def check_readable(path: str) -> int:
  """The size of a file in bytes.

  Raises:
    InputError: it is missing, empty, not a file, or may not be read.
  """
  if not os.path.exists(path):
    raise InputError(f'{path}: no such file')
  if not os.path.isfile(path):
    raise InputError(f'{path}: not a file; expected a Criteo click log')
  if not os.access(path, os.R_OK):
    raise InputError(f'{path}: may not be read (permissions)')
  size = Path(path).stat().st_size
  if not size:
    raise InputError(f'{path}: empty; expected a Criteo click log')
  return size


def is_gzip(path: str) -> bool:
  """Whether a file is packed, by its first bytes."""
  with open(path, 'rb') as file:
    return file.read(len(_GZIP)) == _GZIP


class _Watched:
  """A file that shows what is read of it."""

  def __init__(self, file: BinaryIO, show: Callable[[bytes], object]) -> None:
    self._file = file
    self._show = show

  def read(self, size: int = -1) -> bytes:
    data = self._file.read(size)
    self._show(data)
    return data


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
  """The text of a gzip file, of all its members, in small blocks.

  Raises:
    DamagedError: after the text before the damage.
  """
  text = gzip.GzipFile(fileobj=file)
  try:
    # Not `read`: where the stream breaks off, it loses what came before.
    while block := text.read1(_READ_BYTES):
      yield block
  except EOFError:
    raise DamagedError('the gzip stream ends too early (truncated)') from None
  except (gzip.BadGzipFile, zlib.error) as error:
    raise DamagedError(f'the gzip stream is damaged ({error})') from None


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
  while size and (block := file.read(min(size, CHUNK_BYTES))):
    size -= len(block)
    yield block


def _whole_lines(path: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
  """Joins blocks, cuts at line ends; the last line is given an end."""
  held: list[bytes] = []
  size = 0
  try:
    for block in blocks:
      held.append(block)
      size += len(block)
      if size >= CHUNK_BYTES:
        text = b''.join(held)
        end = _end(path, text)
        yield text[:end]
        held, size = [text[end:]], len(text) - end
  except DamagedError:
    # A line that damage has cut short is not a line.
    text = b''.join(held)
    if end := text.rfind(b'\n') + 1:
      yield text[:end]
    raise
  if size:
    text = b''.join(held)
    yield text if text.endswith(b'\n') else text + b'\n'


def _end(path: str, text: bytes) -> int:
  """Where the last whole line ends."""
  end = text.rfind(b'\n') + 1
  if not end:
    raise InputError(
      f'{path}: a line longer than {CHUNK_BYTES:,} bytes; expected a Criteo '
      'click log'
    )
  return end


def line_start(path: str, at: int) -> int:
  """Where the first line begins that does not begin before `at`."""
  if not at:
    return 0
  with open(path, 'rb', buffering=0) as file:
    file.seek(at - 1)
    for block in iter(lambda: file.read(_HEAD_BYTES), b''):
      if found := block.find(b'\n') + 1:
        return file.tell() - len(block) + found
      if file.tell() - at > CHUNK_BYTES:
        _end(path, block)
    return file.tell()


def lines_before(path: str, at: int) -> int:
  """How many lines end before this byte."""
  with open(path, 'rb', buffering=0) as file:
    return sum(block.count(b'\n') for block in _blocks(file, at))


def head_lines(path: str) -> tuple[int, int]:
  """Bytes at the head of a file, as they lie on disk, and lines in them."""
  packed = is_gzip(path)
  with open(path, 'rb') as file:
    head = file.read(_HEAD_BYTES)
  lines = 0
  try:
    for block in _unpacked(io.BytesIO(head)) if packed else [head]:
      lines += block.count(b'\n')
  except DamagedError:
    pass  # The head ends within the stream.
  return len(head), lines


def chunks(
  path: str, start: int, stop: int, digest: Callable[[bytes], object]
) -> Iterator[bytes]:
  """Whole lines that begin in [start, stop), each with its end.

  Args:
    path: the file; a gzip file is read as a whole.
    start: byte.
    stop: byte.
    digest: takes these lines; of a gzip file, the file as it lies on disk.

  Raises:
    DamagedError: a gzip stream breaks off, after the lines before.
    InputError: a line is too long to be one.
  """
  packed = is_gzip(path)
  if not packed:
    start, stop = line_start(path, start), line_start(path, stop)
  with open(path, 'rb', buffering=0) as file:
    file.seek(0 if packed else start)
    # Only `read` is used of it.
    watched = cast(BinaryIO, _Watched(file, digest))
    blocks = _unpacked(watched) if packed else _blocks(watched, stop - start)
    yield from _whole_lines(path, blocks)
