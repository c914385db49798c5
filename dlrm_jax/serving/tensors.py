"""Tensors of the Open Inference Protocol: names of types, bytes, JSON.

Numbers are little-endian and side by side. Texts (`BYTES`) each follow their
length, a u32.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.prepare.bad_rows import shorten
from dlrm_jax.serving.refusal import invalid

BYTES = 'BYTES'
DTYPES = {
  'BOOL': np.dtype('?'),
  'INT8': np.dtype('i1'),
  'INT16': np.dtype('<i2'),
  'INT32': np.dtype('<i4'),
  'INT64': np.dtype('<i8'),
  'UINT8': np.dtype('u1'),
  'UINT16': np.dtype('<u2'),
  'UINT32': np.dtype('<u4'),
  'UINT64': np.dtype('<u8'),
  'FP16': np.dtype('<f2'),
  'FP32': np.dtype('<f4'),
  'FP64': np.dtype('<f8'),
}
"""Types of numbers by their names in the protocol."""

_MOST_DIMENSIONS = 8
_MOST_ELEMENTS = 2**31 - 1
_LENGTH = 4  # bytes before a text


class Tensor(NamedTuple):
  """A tensor of a request.

  Attributes:
    datatype: name of its type.
    shape: its shape.
    data: numbers of this shape; or texts, one after the other.
  """

  datatype: str
  shape: tuple[int, ...]
  data: np.ndarray | list[bytes]


def _size_of(name: str, datatype: str, shape: Sequence[int]) -> int:
  """Number of elements of a tensor.

  Raises:
    RefusedError: the type or the shape is none.
  """
  if datatype != BYTES and datatype not in DTYPES:
    raise invalid(
      f'input {shorten(name)}: datatype {shorten(datatype)}; expected '
      f'{BYTES} or one of {", ".join(DTYPES)}'
    )
  good = len(shape) <= _MOST_DIMENSIONS and all(
    type(n) is int and n >= 0 for n in shape
  )
  # A size of 0 does not excuse the others, which NumPy multiplies, too.
  if not good or math.prod(n or 1 for n in shape) > _MOST_ELEMENTS:
    raise invalid(
      f'input {shorten(name)}: shape {shorten(list(shape))}; expected at most '
      f'{_MOST_DIMENSIONS} sizes from 0 on, of {_MOST_ELEMENTS:,} elements'
    )
  return math.prod(shape)


def of_bytes(
  name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview
) -> Tensor:
  """A tensor from its bytes, which it shares.

  Raises:
    RefusedError: there are more or fewer bytes than its elements have.
  """
  size = _size_of(name, datatype, shape)
  if datatype == BYTES:
    return Tensor(datatype, tuple(shape), _texts(name, data, size))
  dtype = DTYPES[datatype]
  if len(data) != size * dtype.itemsize:
    raise invalid(
      f'input {shorten(name)}: {len(data):,} bytes; expected '
      f'{size * dtype.itemsize:,}, as {datatype}{list(shape)} has'
    )
  array = np.frombuffer(data, dtype).reshape(shape)
  return Tensor(datatype, tuple(shape), array)


def _texts(name: str, data: bytes | memoryview, size: int) -> list[bytes]:
  held = bytes(data)
  texts, at, end = [], 0, len(held)
  if size <= end // _LENGTH:
    for _ in range(size):
      start = at + _LENGTH
      at = start + int.from_bytes(held[at:start], 'little')
      if start > end or at > end:
        break
      texts.append(held[start:at])
  if len(texts) != size or at != end:
    raise invalid(
      f'input {shorten(name)}: {end:,} bytes are not {size:,} texts, each '
      'behind its length, a u32'
    )
  return texts


def of_json(
  name: str, datatype: str, shape: Sequence[int], data: Any
) -> Tensor:
  """A tensor from the `data` of a request in JSON, flat or nested.

  Raises:
    RefusedError: the elements are not of the type, or not as many.
  """
  size = _size_of(name, datatype, shape)
  if not isinstance(data, list):
    raise invalid(f'input {shorten(name)}: data is no list')
  dtype = DTYPES.get(datatype)
  kinds, called = _KINDS['S' if dtype is None else dtype.kind]
  items = _items(name, data, kinds, f'{called} of type {datatype}')
  if len(items) != size:
    raise invalid(
      f'input {shorten(name)}: data has {len(items):,} {called}; expected '
      f'{size:,}'
    )
  if dtype is None:
    return Tensor(datatype, tuple(shape), list(map(utf8, items)))
  try:
    with np.errstate(over='ignore'):  # a large number becomes infinite
      array = np.array(items, dtype).reshape(shape)
  except OverflowError:
    raise invalid(
      f'input {shorten(name)}: data has a number that {datatype} cannot hold'
    ) from None
  return Tensor(datatype, tuple(shape), array)


_KINDS = {
  'b': ({bool}, 'numbers'),
  'f': ({bool, float, int}, 'numbers'),
  'i': ({int}, 'numbers'),
  'u': ({int}, 'numbers'),
  'S': ({str}, 'texts'),
}
"""What JSON may have for a kind of NumPy, and its name."""


def _items(
  name: str, data: list[Any], kinds: set[type], expected: str
) -> list[Any]:
  """The elements of lists in lists, which are of some kinds.

  Raises:
    RefusedError: one is of another kind, or is not as deep as the others.
  """
  while (found := set(map(type, data))) == {list}:
    data = list(itertools.chain.from_iterable(data))
  if not found <= kinds:
    wrong = next(x for x in data if type(x) not in kinds)
    raise invalid(
      f'input {shorten(name)}: data has {shorten(wrong)}; expected {expected}'
    )
  return data


def utf8(text: str) -> bytes:
  """A text of JSON, which may have half of a pair of UTF-16, as bytes."""
  return text.encode('utf-8', 'surrogatepass')
