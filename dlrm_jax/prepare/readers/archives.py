"""Packed text files: detected by their first bytes, unpacked as streams.

A gzip, bz2 or xz file may have several members, whose texts are joined. A zip
archive must contain exactly one file.
"""

import bz2
import gzip
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol, cast

from dlrm_jax.errors import InputError

_READ_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20

PACKED = ('gzip', 'bz2', 'xz', 'zip')
"""Formats that are unpacked while they are read."""

_BEGINNINGS = (
  (b'\x1f\x8b', 'gzip'),
  (b'BZh', 'bz2'),
  (b'\xfd7zXZ\0', 'xz'),
  (b'PK\x03\x04', 'zip'),
  (b'PK\x05\x06', 'zip'),  # an empty archive
  (b'\x28\xb5\x2f\xfd', 'zstd'),
  (b'PAR1', 'Parquet'),
  (b'\x93NUMPY', 'npy'),
  (b'\xff\xfe', 'UTF-16'),
  (b'\xfe\xff', 'UTF-16'),
)

_NO_TEXT = {
  'zstd': 'a zstd archive; unpack it (zstd -d), or pack it with gzip',
  'Parquet': 'a Parquet file, which is prepared by `prepare raw` with '
  "config.data.raw.format = 'parquet'",
  'npy': 'an array of NumPy (.npy)',
  'UTF-16': 'UTF-16 text; convert it (iconv -f UTF-16 -t UTF-8)',
}
"""Formats that are not text, with a description for messages."""


class DamagedError(Exception):
  """A packed stream is cut off or damaged.

  Attributes:
    anywhere: whether the text unpacked before may be damaged as well.
  """

  def __init__(self, why: str, *, anywhere: bool = False) -> None:
    super().__init__(why)
    self.anywhere = anywhere


class _Decompressor(Protocol):
  """Decompressors of bz2 and lzma."""

  @property
  def eof(self) -> bool: ...
  @property
  def needs_input(self) -> bool: ...
  @property
  def unused_data(self) -> bytes: ...
  def decompress(self, data: bytes, max_length: int) -> bytes: ...


def file_format(path: str) -> str | None:
  """Format of a file by its first bytes; None if they match no known one."""
  with open(path, 'rb') as file:
    head = file.read(8)
  for beginning, kind in _BEGINNINGS:
    if head.startswith(beginning):
      return kind
  return 'UTF-16' if head[:2].count(0) == 1 else None


def check_text(path: str, expected: str) -> None:
  """Checks that a file is text, or packed text.

  Args:
    path: the file.
    expected: name of the format, for messages.

  Raises:
    InputError: the file is neither; the message names its format.
  """
  kind = file_format(path)
  if kind in _NO_TEXT:
    raise InputError(f'{path}: expected {expected}, found {_NO_TEXT[kind]}')
  if kind == 'zip':
    member(path)


def member(path: str) -> zipfile.ZipInfo:
  """The only file in a zip archive.

  Raises:
    InputError: there are none or several, or the archive is damaged.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      members = [
        entry
        for entry in archive.infolist()
        if not entry.is_dir() and not entry.filename.startswith('__MACOSX/')
      ]
  except zipfile.BadZipFile as error:
    raise InputError(
      f'{path}: a damaged zip archive ({error}); copy it again'
    ) from None
  if len(members) != 1:
    names = ', '.join(entry.filename for entry in members[:5])
    more = ', ...' if len(members) > 5 else ''
    raise InputError(
      f'{path}: a zip archive with {len(members)} files ({names}{more}); '
      'expected one file in it: unpack it, and name the files'
    )
  if members[0].flag_bits & 1:
    raise InputError(f'{path}: an encrypted zip archive; unpack it')
  return members[0]


class _Watched:
  """A file that passes all bytes read from it to a function."""

  def __init__(self, file: BinaryIO, show: Callable[[bytes], object]) -> None:
    self._file = file
    self._show = show

  def read(self, size: int = -1) -> bytes:
    data = self._file.read(size)
    self._show(data)
    return data


def unpacked(
  path: str, kind: str, digest: Callable[[bytes], object]
) -> Iterator[bytes]:
  """The text of a packed file, in small blocks.

  Args:
    path: the file.
    kind: format of the file, one of `PACKED`.
    digest: called with the packed bytes; for a zip archive, with the text.

  Raises:
    DamagedError: the file is damaged; raised after the text before.
  """
  if kind == 'zip':
    for block in _translated(_zip(path), kind):
      digest(block)
      yield block
    return
  with open(path, 'rb', buffering=0) as file:
    # Decompressors only call `read`.
    yield from unpack_stream(cast(BinaryIO, _Watched(file, digest)), kind)


def unpack_stream(file: BinaryIO, kind: str) -> Iterator[bytes]:
  """The text of all members of a gzip, bz2 or xz stream, in small blocks.

  Raises:
    DamagedError: the stream is damaged; raised after the text before.
  """
  if kind == 'gzip':
    blocks = _gzip(file)
  else:
    blocks = _members(file, bz2.BZ2Decompressor if kind == 'bz2' else _xz)
  yield from _translated(blocks, kind)


def _translated(blocks: Iterator[bytes], kind: str) -> Iterator[bytes]:
  """The same blocks; turns the errors of all libraries into `DamagedError`."""
  try:
    yield from blocks
  except EOFError:
    raise DamagedError(
      f'the {kind} stream ends too early (truncated)'
    ) from None
  except (
    *(gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(zipfile.BadZipFile, NotImplementedError, _BadStreamError),
  ) as error:
    # A checksum is compared at the end, after all of the text.
    anywhere = re.search(r'CRC|[Cc]hecksum|length', str(error)) is not None
    raise DamagedError(
      f'the {kind} stream is damaged ({error})', anywhere=anywhere
    ) from None


def _gzip(file: BinaryIO) -> Iterator[bytes]:
  text = gzip.GzipFile(fileobj=file)
  # `read` would lose the text before the place where a stream is cut off.
  while block := text.read1(_BLOCK_BYTES):
    yield block


def _xz() -> lzma.LZMADecompressor:
  return lzma.LZMADecompressor(lzma.FORMAT_XZ)


class _BadStreamError(Exception):
  """Bytes that are not a bz2 stream."""


def _members(
  file: BinaryIO, new: Callable[[], _Decompressor]
) -> Iterator[bytes]:
  """The text of all members; BZ2File ignores bytes behind a member."""
  data = file.read(_READ_BYTES)
  while data:
    state = new()
    while not state.eof:
      if state.needs_input and not data:
        data = file.read(_READ_BYTES)
        if not data:
          raise EOFError
      try:
        block = state.decompress(data, _BLOCK_BYTES)
      except OSError as error:  # bz2 has no error of its own.
        raise _BadStreamError(error) from None
      data = b''
      if block:
        yield block
    data = state.unused_data.lstrip(b'\0')  # Padding.
    while not data and (more := file.read(_READ_BYTES)):
      data = more.lstrip(b'\0')


def _zip(path: str) -> Iterator[bytes]:
  with zipfile.ZipFile(path) as archive, archive.open(member(path)) as file:
    text: Any = file  # A ZipExtFile.
    while block := text.read1(_BLOCK_BYTES):
      yield block
