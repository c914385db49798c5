"""Raw click logs, plain or gzip, as chunks of whole lines in bounded memory.

The checksum is taken on the way, of the bytes as they lie on disk.
"""

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from dlrm_jax.errors import InputError

CHUNK_BYTES = 16 << 20
"""Of text, read at a time; no line can be longer."""

_GZIP = b'\x1f\x8b'


class _Hashed:
  """A file that is hashed while it is read."""

  def __init__(self, file: BinaryIO, progress: Callable[[int], object]) -> None:
    self._file = file
    self._progress = progress
    self.sha256 = hashlib.sha256()
    self.size = 0

  def read(self, size: int = -1) -> bytes:
    data = self._file.read(size)
    self.sha256.update(data)
    self.size += len(data)
    self._progress(len(data))
    return data


class RawFile:
  """One file; iterate once, then look at what was found.

  Attributes:
    path: the file, as given.
    size: bytes of it read so far, on disk.
    sha256: of those bytes.
    damage: why reading stopped early, or None.
  """

  def __init__(
    self, path: str, progress: Callable[[int], object] = lambda size: None
  ) -> None:
    self.path = path
    self.size = 0
    self.sha256 = ''
    self.damage: str | None = None
    self._progress = progress

  def __iter__(self) -> Iterator[bytes]:
    """Chunks of whole lines, each line with its end."""
    check_readable(self.path)
    with open(self.path, 'rb', buffering=0) as file:
      packed = file.read(2) == _GZIP
      file.seek(0)
      hashed = _Hashed(file, self._progress)
      # Only `read` is used of a file that is not to be seeked in.
      yield from self._lines(
        gzip.GzipFile(fileobj=cast(BinaryIO, hashed)) if packed else hashed
      )
      self.size, self.sha256 = hashed.size, hashed.sha256.hexdigest()

  def _lines(self, text: _Hashed | gzip.GzipFile) -> Iterator[bytes]:
    rest = b''
    while self.damage is None and (data := self._read(text)):
      end = data.rfind(b'\n') + 1
      if end:
        yield b''.join((rest, memoryview(data)[:end]))
        rest = data[end:]
      else:
        rest += data
      if len(rest) > CHUNK_BYTES:
        raise InputError(
          f'{self.path}: a line longer than {CHUNK_BYTES >> 20} MiB; '
          'expected a Criteo click log'
        )
    # A line that damage has cut short is not a line.
    if rest and self.damage is None:
      yield rest + b'\n'

  def _read(self, text: _Hashed | gzip.GzipFile) -> bytes:
    """About a chunk; b'' at the end, also where damage ends it."""
    if isinstance(text, _Hashed):
      return text.read(CHUNK_BYTES)
    parts: list[bytes] = []
    size = 0
    try:
      # Not `read`: where the stream breaks off, it loses what came before.
      while size < CHUNK_BYTES and (part := text.read1(1 << 20)):
        parts.append(part)
        size += len(part)
    except EOFError:
      self.damage = 'the gzip stream ends too early (truncated)'
    except (gzip.BadGzipFile, zlib.error) as error:
      self.damage = f'the gzip stream is damaged ({error})'
    return b''.join(parts)


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
