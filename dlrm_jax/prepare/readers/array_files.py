"""Arrays on disk, read by rows in bounded memory: .npy, and members of .npz.

What lies as it is on disk is mapped. A compressed member is a stream, read
once from its beginning; in Fortran order it is a stream a column, since its
columns lie one after the other.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.readers.packed_streams import (
  DamagedStreamError,
  Stream,
  data_start,
  streams,
)
from dlrm_jax.prepare.readers.reader import FRAME_ROWS
from dlrm_jax.prepare.readers.text_files import check_readable

_EXPECTED = 'arrays as NumPy writes them (.npy, .npz)'


class Header(NamedTuple):
  """What the header of an array says.

  Attributes:
    shape: of the array, rows first.
    fortran: whether columns lie one after the other.
    dtype: of the values.
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
  """An array on disk."""

  @property
  def header(self) -> Header:
    """What it is."""
    ...

  def parts(self, start: int, stop: int) -> Iterator[np.ndarray]:
    """Rows in [start, stop), `FRAME_ROWS` at a time.

    Raises:
      InputError: the file is damaged.
    """
    ...


class Mapped:
  """An array that lies on disk as it is, from byte `offset` on."""

  def __init__(self, path: str, offset: int, header: Header) -> None:
    begin = offset + header.length
    if (found := os.path.getsize(path)) < begin + header.size:
      raise InputError(
        f'{path}: {found:,} bytes; expected {begin + header.size:,} or more, '
        f'as its header says {header.shape} of {header.dtype}; copy it again'
      )
    self.header = header
    order = 'F' if header.fortran else 'C'
    self._values = np.memmap(
      path, header.dtype, 'r', begin, header.shape, order
    )

  def parts(self, start: int, stop: int) -> Iterator[np.ndarray]:
    """Rows in [start, stop), `FRAME_ROWS` at a time."""
    for first in range(start, stop, FRAME_ROWS):
      yield np.array(self._values[first : min(first + FRAME_ROWS, stop)])


class Packed(NamedTuple):
  """A compressed member of an .npz file, which is read as a whole.

  Attributes:
    path: the file.
    member: of the file.
    header: of its array.
  """

  path: str
  member: zipfile.ZipInfo
  header: Header

  def parts(self, start: int, stop: int) -> Iterator[np.ndarray]:
    """All rows, `FRAME_ROWS` at a time."""
    shape, fortran, dtype, length = self.header
    rows, *width = shape
    if (start, stop) != (0, rows):
      raise ValueError('a compressed array is read as a whole')
    starts = [length]
    if fortran and width:
      starts = [length + c * rows * dtype.itemsize for c in range(*width)]
      width = []
    try:
      with open(self.path, 'rb') as file:
        files = streams(file, self.member, starts)
        for first in range(0, rows, FRAME_ROWS):
          part = (min(FRAME_ROWS, rows - first), *width)
          columns = [_values(stream, dtype, part) for stream in files]
          yield columns[0] if len(files) == 1 else np.stack(columns, axis=1)
    except DamagedStreamError as error:
      raise _broken(self.path, f'{self.member.filename} {error}') from None


def _values(
  stream: Stream, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
  data = stream.read(math.prod(shape) * dtype.itemsize)
  return np.frombuffer(data, dtype).reshape(shape)


def _broken(path: str, why: object) -> InputError:
  return InputError(
    f'{path}: not a whole file of arrays ({str(why)[:200]}); expected one as '
    'NumPy writes it, so copy or write it again'
  )


def _header(file: IO[bytes]) -> Header:
  """Reads the header of an array.

  Raises:
    ValueError: there is none.
  """
  version = np.lib.format.read_magic(file)
  read: Any = np.lib.format.read_array_header_1_0
  if version != (1, 0):
    read = np.lib.format.read_array_header_2_0
  shape, fortran, dtype = read(file)
  if dtype.hasobject or not shape:
    raise ValueError(f'{dtype} of shape {shape} is no table of numbers')
  return Header(shape, fortran, dtype, file.tell())


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
  """Those of the arrays with these names that an .npz file has.

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
          arrays[name] = Mapped(path, data_start(path, member), header)
        else:
          arrays[name] = Packed(path, member, header)
  except (
    *(zipfile.BadZipFile, zlib.error, ValueError, EOFError),
    *(NotImplementedError, RuntimeError, DamagedStreamError),
  ) as error:
    raise _broken(path, error) from error
  return arrays
