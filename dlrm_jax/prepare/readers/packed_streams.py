"""A deflated member of a zip file, read from several places at once.

Deflate can't be entered in the middle. But the state of a decompressor can
be copied: one pass over the stream leaves a copy at each place asked for.
"""

import copy
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import BinaryIO

_READ_BYTES = 1 << 20
_LOCAL_HEADER = 30
_LENGTHS = 26  # Of name and extra field, in the local header.


class DamagedStreamError(Exception):
  """A stream breaks off, or is not what was packed; says why."""


class Stream:
  """Unpacked bytes of a member, in order."""

  def __init__(self, file: BinaryIO, at: int) -> None:
    self._file = file
    self._at = at
    self._state = zlib.decompressobj(-zlib.MAX_WBITS)

  def split(self) -> 'Stream':
    """Another stream, at the same place."""
    other = copy.copy(self)
    other._state = self._state.copy()
    return other

  def read(self, size: int) -> bytes:
    """The next `size` bytes.

    Raises:
      DamagedStreamError: there are fewer, or they are damaged.
    """
    held = []
    while size:
      data = self.some(size)
      if not data:
        raise DamagedStreamError('ends too early')
      held.append(data)
      size -= len(data)
    return b''.join(held)

  def some(self, most: int) -> bytes:
    """Some of the next bytes; none at the end."""
    data = b''
    while not data and not self._state.eof:
      packed = self._state.unconsumed_tail
      if not packed:
        packed = os.pread(self._file.fileno(), _READ_BYTES, self._at)
        self._at += len(packed)
      try:
        data = self._state.decompress(packed, most)
      except zlib.error as error:
        raise DamagedStreamError(f'is damaged: {error}') from None
      if not packed and not data:
        raise DamagedStreamError('ends too early')
    return data


def data_start(path: str, member: zipfile.ZipInfo) -> int:
  """Where the bytes of a member begin in its zip file."""
  with open(path, 'rb') as file:
    return _data_start(file, member)


def _data_start(file: BinaryIO, member: zipfile.ZipInfo) -> int:
  header = os.pread(file.fileno(), _LOCAL_HEADER, member.header_offset)
  if len(header) < _LOCAL_HEADER:
    raise DamagedStreamError('ends too early')
  lengths = struct.unpack_from('<HH', header, _LENGTHS)
  return member.header_offset + _LOCAL_HEADER + sum(lengths)


def streams(
  file: BinaryIO, member: zipfile.ZipInfo, starts: Sequence[int]
) -> list[Stream]:
  """Streams of a member from some places on, after its checksum was compared.

  Args:
    file: the zip file.
    member: deflated.
    starts: places in the unpacked bytes, ascending.

  Raises:
    DamagedStreamError: the member is damaged, or packed in another way.
  """
  if member.compress_type != zipfile.ZIP_DEFLATED:
    raise DamagedStreamError('is neither stored nor deflated')
  stream, place, found = Stream(file, _data_start(file, member)), 0, []
  checksum = 0
  for start in (*starts, member.file_size):
    while place < start:
      data = stream.read(min(start - place, _READ_BYTES))
      checksum = zlib.crc32(data, checksum)
      place += len(data)
    found.append(stream.split())
  if checksum != member.CRC:
    raise DamagedStreamError('is damaged: its checksum differs')
  return found[:-1]
