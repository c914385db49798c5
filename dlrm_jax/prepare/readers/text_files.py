"""Text files, plain or packed, as chunks of whole lines.

Memory is bounded: by `CHUNK_BYTES` and the longest line, which is no longer.
"""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.readers.archives import (
  PACKED,
  DamagedError,
  check_text,
  kind_of,
  member,
  unpack,
  unpacked,
)

CHUNK_BYTES = 4 << 20
"""Of text, at a time; no line can be longer. (Larger ones leave the cache.)"""

_HEAD_BYTES = 1 << 20
_BOM = b'\xef\xbb\xbf'


def check_readable(path: str, expected: str) -> int:
  """The size of a file in bytes.

  Args:
    path: the file.
    expected: the format, in words, for messages.

  Raises:
    InputError: it is missing, empty, not a file, or may not be read.
  """
  if not os.path.exists(path):
    raise InputError(f'{path}: no such file')
  if os.path.isdir(path):
    raise InputError(f'{path}: not a file, but a folder; expected {expected}')
  if not os.path.isfile(path):
    raise InputError(f'{path}: not a file; expected {expected}')
  if not os.access(path, os.R_OK):
    raise InputError(f'{path}: may not be read (permissions)')
  size = Path(path).stat().st_size
  if not size:
    raise InputError(f'{path}: empty; expected {expected}')
  return size


def check_lines(path: str, expected: str) -> int:
  """The size in bytes of a text file, plain or packed.

  Raises:
    InputError: it can't be read, or is no text.
  """
  size = check_readable(path, expected)
  check_text(path, expected)
  return size


def is_packed(path: str) -> bool:
  """Whether a file can only be read from its beginning."""
  return kind_of(path) in PACKED


def _blocks(
  file: BinaryIO, size: int, show: Callable[[bytes], object]
) -> Iterator[bytes]:
  while size and (block := file.read(min(size, CHUNK_BYTES))):
    size -= len(block)
    show(block)
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
      f'{path}: a line longer than {CHUNK_BYTES:,} bytes; expected text, a '
      'row a line'
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
    return sum(block.count(b'\n') for block in _blocks(file, at, len))


def lines_about(path: str) -> int:
  """How many lines a text file has, estimated from its head and its size."""
  size, kind = Path(path).stat().st_size, kind_of(path)
  if kind == 'zip':
    size = member(path).file_size
  seen, lines = 0, 0
  try:
    for count, block in _head(path, kind):
      seen = count
      lines += block.count(b'\n')
  except DamagedError:
    pass  # The head ends within the stream.
  return max(1, size * lines // max(1, seen))


def _head(path: str, kind: str) -> Iterator[tuple[int, bytes]]:
  """Text at the head of a file, and bytes of the file that it takes so far."""
  if kind == 'zip':
    seen = 0
    for block in unpacked(path, kind, len):
      seen += len(block)
      yield seen, block
      if seen >= _HEAD_BYTES:
        return
    return
  with open(path, 'rb') as file:
    head = file.read(_HEAD_BYTES)
  blocks = unpack(io.BytesIO(head), kind) if kind in PACKED else [head]
  for block in blocks:
    yield len(head), block


def chunks(
  path: str, start: int, stop: int, digest: Callable[[bytes], object]
) -> Iterator[bytes]:
  """Whole lines that begin in [start, stop), each with its end.

  A byte order mark at the beginning of the file is left out.

  Args:
    path: the file; a packed file is read as a whole.
    start: byte.
    stop: byte.
    digest: takes these lines; of a packed file, what `unpacked` says.

  Raises:
    DamagedError: a packed stream breaks off, after the lines before.
    InputError: a line is too long to be one.
  """
  kind = kind_of(path)
  if kind in PACKED:
    blocks = unpacked(path, kind, digest)
    yield from _unmarked(_whole_lines(path, blocks))
    return
  begin, stop = line_start(path, start), line_start(path, stop)
  with open(path, 'rb', buffering=0) as file:
    file.seek(begin)
    lines = _whole_lines(path, _blocks(file, stop - begin, digest))
    yield from lines if start else _unmarked(lines)


def _unmarked(lines: Iterator[bytes]) -> Iterator[bytes]:
  """Chunks of which the first has no byte order mark."""
  for chunk in lines:
    yield chunk.removeprefix(_BOM)
    break
  yield from lines
