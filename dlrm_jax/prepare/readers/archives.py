"""Packed text files: found by their first bytes, unpacked as a stream.

gzip, bz2 and xz files may have several members, which are one text; a zip
archive must have one file.
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
"""Kinds of files that are unpacked while they are read."""

_BEGINNINGS = (
  (b'\x1f\x8b', 'gzip'),
  (b'BZh', 'bz2'),
  (b'\xfd7zXZ\0', 'xz'),
  (b'PK\x03\x04', 'zip'),
  (b'PK\x05\x06', 'zip'),  # without files
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
"""What can't be read as text, and what to do."""


class DamagedError(Exception):
  """A packed stream breaks off, or is not what was packed; says why.

  Attributes:
    anywhere: whether what was unpacked before may be damaged as well.
  """

  def __init__(self, why: str, anywhere: bool = False) -> None:
    super().__init__(why)
    self.anywhere = anywhere


class _Decompressor(Protocol):
  """What bz2 and lzma have in common."""

  @property
  def eof(self) -> bool: ...
  @property
  def needs_input(self) -> bool: ...
  @property
  def unused_data(self) -> bytes: ...
  def decompress(self, data: bytes, max_length: int) -> bytes: ...


def kind_of(path: str) -> str:
  """What a file is by its first bytes; '' where they say nothing."""
  with open(path, 'rb') as file:
    head = file.read(8)
  for beginning, kind in _BEGINNINGS:
    if head.startswith(beginning):
      return kind
  return 'UTF-16' if head[:2].count(0) == 1 else ''


def check_text(path: str, expected: str) -> None:
  """Sees that a file is text, or packed text.

  Args:
    path: the file.
    expected: the format, in words.

  Raises:
    InputError: it is neither; says what it is.
  """
  kind = kind_of(path)
  if kind in _NO_TEXT:
    raise InputError(f'{path}: expected {expected}, found {_NO_TEXT[kind]}')
  if kind == 'zip':
    member(path)


def member(path: str) -> zipfile.ZipInfo:
  """The one file in a zip archive.

  Raises:
    InputError: there are none or several, or it can't be unpacked.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      members = [
        found
        for found in archive.infolist()
        if not found.is_dir() and not found.filename.startswith('__MACOSX/')
      ]
  except zipfile.BadZipFile as error:
    raise InputError(
      f'{path}: a damaged zip archive ({error}); copy it again'
    ) from None
  if len(members) != 1:
    names = ', '.join(found.filename for found in members[:5])
    more = ', ...' if len(members) > 5 else ''
    raise InputError(
      f'{path}: a zip archive with {len(members)} files ({names}{more}); '
      'expected one file in it: unpack it, and name the files'
    )
  if members[0].flag_bits & 1:
    raise InputError(f'{path}: an encrypted zip archive; unpack it')
  return members[0]


class _Watched:
  """A file that shows what is read of it."""

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
    kind: one of `PACKED`.
    digest: takes the file as it lies on disk; of a zip archive, the text.

  Raises:
    DamagedError: after the text before the damage.
  """
  if kind == 'zip':
    for block in _damage_told(_zip(path), kind):
      digest(block)
      yield block
    return
  with open(path, 'rb', buffering=0) as file:
    # Only `read` is used of it.
    yield from unpack(cast(BinaryIO, _Watched(file, digest)), kind)


def unpack(file: BinaryIO, kind: str) -> Iterator[bytes]:
  """The text of all members of a gzip, bz2 or xz stream, in small blocks.

  Raises:
    DamagedError: after the text before the damage.
  """
  if kind == 'gzip':
    blocks = _gzip(file)
  else:
    blocks = _members(file, bz2.BZ2Decompressor if kind == 'bz2' else _xz)
  yield from _damage_told(blocks, kind)


def _damage_told(blocks: Iterator[bytes], kind: str) -> Iterator[bytes]:
  """The same blocks; errors of all libraries as `DamagedError`."""
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
    # A checksum is looked at behind all that it is of.
    anywhere = re.search(r'CRC|[Cc]hecksum|length', str(error)) is not None
    raise DamagedError(
      f'the {kind} stream is damaged ({error})', anywhere
    ) from None


def _gzip(file: BinaryIO) -> Iterator[bytes]:
  text = gzip.GzipFile(fileobj=file)
  # Not `read`: where the stream breaks off, it loses what came before.
  while block := text.read1(_BLOCK_BYTES):
    yield block


def _xz() -> lzma.LZMADecompressor:
  return lzma.LZMADecompressor(lzma.FORMAT_XZ)


class _BadStreamError(Exception):
  """Bytes that are not bz2."""


def _members(
  file: BinaryIO, new: Callable[[], _Decompressor]
) -> Iterator[bytes]:
  """All members; the library's own files ignore what follows a member."""
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
