"""Many short fields of digits at once -> integers.

Up to 8 characters of a field are one uint64, and each step is arithmetic on
all characters of all fields. Characters are held less '0' (by exclusive or:
a digit becomes its value), the last one in the highest byte. Bytes below the
first one are 0, which reads as a leading zero.

A text is u8[n], n a multiple of 8, with `PADDING` bytes or more after the
last field. Fields are their starts and lengths, int64 of any shape.
"""

from typing import NamedTuple

import numpy as np

PADDING = 8
"""Bytes of any value that a text has after its last field, at least."""

_WORD = 8


class Numbers(NamedTuple):
  """Fields as numbers.

  Attributes:
    values: uint32, or int32 of `integers`; 0 of an empty field, and anything
      where `bad`.
    bad: bool, whether a field is anything else than these digits.
  """

  values: np.ndarray
  bad: np.ndarray


def _each(byte: int) -> np.uint64:
  """A byte, eight times."""
  return np.uint64(byte * 0x0101_0101_0101_0101)


def _words(
  text: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
  """Characters as above; 0 of a field that is empty or longer than 8."""
  aligned = text.view('<u8')
  first = starts >> 3
  skipped = ((starts & 7) << 3).view(np.uint64)
  # Two aligned words cost less than one that is not. NumPy defines a shift by
  # 64 bits and more: nothing is left.
  words = aligned[first] >> skipped
  first += 1
  words |= aligned[first] << (np.uint64(64) - skipped)
  words ^= _each(ord('0'))
  words <<= ((_WORD - lengths) << 3).view(np.uint64)
  return words


def hexadecimals(
  text: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> Numbers:
  """Fields of up to 8 hex digits."""
  x = _words(text, starts, lengths)
  # A sum has bit 7 set where a character is so large at least; it carries into
  # the next character only from one that has bit 7 itself, hence is bad.
  # With bit 5 set, letters of both cases are 0x71 ... 0x76.
  lower = x | _each(0x20)
  letters = (lower + _each(0x80 - 0x71)) ^ (lower + _each(0x80 - 0x77))
  bad = (x | ((x + _each(0x80 - 10)) ^ letters)) & _each(0x80)
  nibbles = ((x >> np.uint64(6)) & _each(1)) * np.uint64(9)
  x &= _each(0x0F)
  x += nibbles
  # Neighbours join: two digits, four, all eight.
  x = ((x << np.uint64(4)) | (x >> np.uint64(8))) & np.uint64(0xFF00FF00FF00FF)
  x = ((x << np.uint64(8)) | (x >> np.uint64(16))) & np.uint64(0xFFFF0000FFFF)
  x = (x << np.uint64(16)) | (x >> np.uint64(32))
  return Numbers(x.astype(np.uint32), (bad != 0) | (lengths > _WORD))


def _decimals(
  text: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> Numbers:
  """Fields of up to 8 decimal digits."""
  x = _words(text, starts, lengths)
  bad = (x | (x + _each(0x80 - 10))) & _each(0x80)
  x = x * np.uint64(10) + (x >> np.uint64(8))
  x &= np.uint64(0xFF00FF00FF00FF)
  x = x * np.uint64(100) + (x >> np.uint64(16))
  x &= np.uint64(0xFFFF0000FFFF)
  x = x * np.uint64(10_000) + (x >> np.uint64(32))
  return Numbers(x.astype(np.uint32), (bad != 0) | (lengths > _WORD))


def _signed(
  text: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> Numbers:
  """Fields of decimal digits, maybe after a minus; of shape [n]."""
  minus = text[starts] == ord('-')
  starts, lengths = starts + minus, lengths - minus
  bad = lengths == 0
  for i in np.flatnonzero(lengths > 2 * _WORD):
    field = text[starts[i] : starts[i] + lengths[i]].tobytes()
    left = len(field.lstrip(b'0'))
    starts[i] += lengths[i] - left
    lengths[i] = left
  above = np.maximum(lengths - _WORD, 0)
  high = _decimals(text, starts, above)
  low = _decimals(text, starts + above, lengths - above)
  values = high.values.astype(np.int64) * 10**_WORD + low.values
  values = np.where(minus, -values, values)
  narrow = values.astype(np.int32)
  return Numbers(narrow, bad | high.bad | low.bad | (narrow != values))


def integers(
  text: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> Numbers:
  """Fields of decimal digits, maybe after a minus, in 32 bits with sign."""
  values, bad = _decimals(text, starts, lengths)
  values = values.view(np.int32)
  # Few have a sign, or are longer than a word.
  others = np.flatnonzero(bad)
  if len(others):
    starts, lengths = starts.reshape(-1)[others], lengths.reshape(-1)[others]
    signed = _signed(text, starts, lengths)
    values.reshape(-1)[others] = signed.values
    bad.reshape(-1)[others] = signed.bad
  return Numbers(values, bad)
