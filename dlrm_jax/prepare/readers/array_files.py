"""Arrays in files, read in blocks of rows: .npy files and members of .npz.

Arrays are memory-mapped. A compressed member of an .npz file is first unpacked
into a temporary file, since rows of an array in Fortran order are spread over
all of it.
"""

import math
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.readers.reader import FRAME_ROWS
from dlrm_jax.prepare.readers.text_files import check_readable
from dlrm_jax.text import human

_EXPECTED = 'arrays as NumPy writes them (.npy, .npz)'
_ZIP_ERRORS = (
  *(zipfile.BadZipFile, zlib.error, ValueError, EOFError),
  *(NotImplementedError, RuntimeError, struct.error),
)
_COPIED_BYTES = 1 << 20
_LOCAL_HEADER = struct.Struct('<26xHH')  # lengths of name and extra field


class Header(NamedTuple):
  """The header of an array.

  Attributes:
    shape: shape of the array, rows first.
    fortran: whether columns lie one after the other.
    dtype: type of the values.
    length: bytes of the header itself.
  """

  shape: tuple[int, ...]
  fortran: bool
  dtype: np.dtype
  length: int

  @property
  def size(self) -> int:
    """Bytes of the values."""
    return math.prod(self.shape) * self.dtype.itemsize


class Array(Protocol):
  """An array in a file."""

  @property
  def header(self) -> Header:
    """Shape and type of the array."""
    ...

  def parts(self, start: int, stop: int) -> Iterator[np.ndarray]:
    """Rows start ... stop - 1, `FRAME_ROWS` at a time.

    Raises:
      InputError: the file is damaged.
    """
    ...


class Mapped:
  """An uncompressed array, whose header is at byte `offset` of the file."""

  def __init__(self, path: str, offset: int, header: Header) -> None:
    begin = offset + header.length
    if (size := os.path.getsize(path)) < begin + header.size:
      raise InputError(
        f'{path}: {size:,} bytes; expected {begin + header.size:,} or more, '
        f'as its header says {header.shape} of {header.dtype}; copy it again'
      )
    self.header = header
    self._values = _mapped(path, offset, header)

  def parts(self, start: int, stop: int) -> Iterator[np.ndarray]:
    """Rows start ... stop - 1, `FRAME_ROWS` at a time."""
    yield from _blocks(self._values, start, stop)


class Packed(NamedTuple):
  """A compressed member of an .npz file.

  Attributes:
    path: the .npz file.
    member: entry of the array in the file.
    header: header of the array.
  """

  path: str
  member: zipfile.ZipInfo
  header: Header

  def parts(self, start: int, stop: int) -> Iterator[np.ndarray]:
    """Rows start ... stop - 1, `FRAME_ROWS` at a time; unpacks all rows."""
    yield from _blocks(self._unpacked(), start, stop)

  def _unpacked(self) -> np.ndarray:
    """The array, mapped from a temporary file that has no name."""
    name = self.member.filename
    try:
      with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(self.path) as z, z.open(self.member) as packed:
          shutil.copyfileobj(packed, file, _COPIED_BYTES)
        file.flush()
        return _mapped(file, 0, self.header)
    except _ZIP_ERRORS as error:
      raise _broken(self.path, f'{name} is damaged: {error}') from None
    except OSError as error:
      raise InputError(
        f'{self.path}: {name} cannot be unpacked into {tempfile.gettempdir()} '
        f'({error.strerror or error}); expected '
        f'{human(self.member.file_size)} there: make room, or set TMPDIR to '
        'another folder'
      ) from None


def _mapped(file: str | IO[bytes], offset: int, header: Header) -> np.ndarray:
  """The values behind a header that is at byte `offset` of a file."""
  order = 'F' if header.fortran else 'C'
  begin = offset + header.length
  values: Any = file  # NumPy's stubs lack open files.
  return np.memmap(values, header.dtype, 'r', begin, header.shape, order)


def _blocks(values: np.ndarray, start: int, stop: int) -> Iterator[np.ndarray]:
  """Copies of rows start ... stop - 1, `FRAME_ROWS` at a time."""
  for first in range(start, stop, FRAME_ROWS):
    yield np.array(values[first : min(first + FRAME_ROWS, stop)])


def _broken(path: str, why: object) -> InputError:
  return InputError(
    f'{path}: not a whole file of arrays ({str(why)[:200]}); expected one as '
    'NumPy writes it, so copy or write it again'
  )


def _header(file: IO[bytes]) -> Header:
  """Reads the header of an array.

  Raises:
    ValueError: the file does not begin with a header of numbers.
  """
  version = np.lib.format.read_magic(file)
  read: Any = np.lib.format.read_array_header_1_0
  if version != (1, 0):
    read = np.lib.format.read_array_header_2_0
  shape, fortran, dtype = read(file)
  if dtype.hasobject or not shape:
    raise ValueError(f'{dtype} of shape {shape} is no table of numbers')
  return Header(shape, fortran, dtype, file.tell())


def _data_start(path: str, member: zipfile.ZipInfo) -> int:
  """Offset of a member's bytes in its zip file."""
  with open(path, 'rb') as file:
    file.seek(member.header_offset)
    lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
  return member.header_offset + _LOCAL_HEADER.size + sum(lengths)


def open_npy(path: str) -> Mapped:
  """The array of an .npy file.

  Raises:
    InputError: the file is missing, of another format, or damaged.
  """
  check_readable(path, _EXPECTED)
  with open(path, 'rb') as file:
    try:
      header = _header(file)
    except (ValueError, EOFError) as error:
      raise _broken(path, error) from error
  return Mapped(path, 0, header)


def open_npz(path: str, names: Collection[str]) -> dict[str, Array]:
  """The arrays of an .npz file that have one of these names, by name.

  Raises:
    InputError: the file is missing, of another format, or damaged.
  """
  check_readable(path, _EXPECTED)
  arrays: dict[str, Array] = {}
  try:
    with zipfile.ZipFile(path) as archive:
      for member in archive.infolist():
        name = member.filename.removesuffix('.npy')
        if name not in names:
          continue
        with archive.open(member) as file:
          header = _header(file)
        if member.compress_type == zipfile.ZIP_STORED:
          arrays[name] = Mapped(path, _data_start(path, member), header)
        else:
          arrays[name] = Packed(path, member, header)
  except _ZIP_ERRORS as error:
    raise _broken(path, error) from error
  return arrays
