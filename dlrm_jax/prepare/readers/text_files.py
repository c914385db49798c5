"""Text files, plain or packed, as chunks of whole lines.

A chunk has about `CHUNK_BYTES`, which is also the limit of a line's length.
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
  file_format,
  member,
  unpack_stream,
  unpacked,
)

CHUNK_BYTES = 4 << 20
"""Approximate size of a chunk; larger ones do not fit the processor's cache."""

_HEAD_BYTES = 1 << 20
_BOM = b'\xef\xbb\xbf'


def check_readable(path: str, expected: str) -> int:
  """The size of a file in bytes.

  Args:
    path: the file.
    expected: name of the format, for messages.

  Raises:
    InputError: the file is missing, empty, not a file, or not readable.
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
    InputError: the file cannot be read, or is not text.
  """
  size = check_readable(path, expected)
  check_text(path, expected)
  return size


def is_packed(path: str) -> bool:
  """Whether a file is packed, so that it is read from its beginning."""
  return file_format(path) in PACKED


def _blocks(
  file: BinaryIO, size: int, show: Callable[[bytes], object]
) -> Iterator[bytes]:
  """The next `size` bytes in blocks, each passed to `show` first."""
  while size and (block := file.read(min(size, CHUNK_BYTES))):
    size -= len(block)
    show(block)
    yield block


def _whole_lines(path: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
  """Joins blocks, and cuts at line ends; adds an end to the last line."""
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
    # A line that the damage cut short is dropped.
    text = b''.join(held)
    if end := text.rfind(b'\n') + 1:
      yield text[:end]
    raise
  if size:
    text = b''.join(held)
    yield text if text.endswith(b'\n') else text + b'\n'


def _end(path: str, text: bytes) -> int:
  """Offset behind the last whole line."""
  end = text.rfind(b'\n') + 1
  if not end:
    raise InputError(
      f'{path}: a line longer than {CHUNK_BYTES:,} bytes; expected text, a '
      'row a line'
    )
  return end


def line_start(path: str, at: int) -> int:
  """Offset of the first line that begins at byte `at` or later."""
  if not at:
    return 0
  with open(path, 'rb', buffering=0) as file:
    file.seek(at - 1)
    for block in iter(lambda: file.read(_HEAD_BYTES), b''):
      if end := block.find(b'\n') + 1:
        return file.tell() - len(block) + end
      if file.tell() - at > CHUNK_BYTES:
        _end(path, block)
    return file.tell()


def lines_before(path: str, at: int) -> int:
  """Number of lines that end before byte `at`."""
  with open(path, 'rb', buffering=0) as file:
    return sum(block.count(b'\n') for block in _blocks(file, at, len))


def lines_about(path: str) -> int:
  """Number of lines of a text file, estimated from its beginning."""
  size, kind = Path(path).stat().st_size, file_format(path)
  if kind == 'zip':
    size = member(path).file_size
  seen, lines = 0, 0
  try:
    for count, block in _head(path, kind):
      seen = count
      lines += block.count(b'\n')
  except DamagedError:
    pass  # Expected: the beginning of a stream is not a whole stream.
  return max(1, size * lines // max(1, seen))


def _head(path: str, kind: str | None) -> Iterator[tuple[int, bytes]]:
  """The first blocks of text, each with the number of file bytes used so far.

  For zip archives, bytes of the unpacked text are counted instead.
  """
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
  blocks = unpack_stream(io.BytesIO(head), kind) if kind in PACKED else [head]
  for block in blocks:
    yield len(head), block


def chunks(
  path: str, start: int, stop: int, digest: Callable[[bytes], object]
) -> Iterator[bytes]:
  """Chunks of the lines that begin at bytes start ... stop - 1, with ends.

  A byte order mark at the beginning of the file is dropped.

  Args:
    path: the file; a packed file is read whole.
    start: first byte.
    stop: byte behind the last.
    digest: called with the lines; for a packed file, as `unpacked` calls it.

  Raises:
    DamagedError: a packed stream is damaged; raised after the lines before.
    InputError: a line is too long.
  """
  kind = file_format(path)
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
  """The same chunks, without a byte order mark in the first."""
  for chunk in lines:
    yield chunk.removeprefix(_BOM)
    break
  yield from lines
