"""Many short fields of digits at once -> integers.

A word, uint64, has up to 8 characters of a field, and each step is arithmetic
on all characters of all fields. A character is stored as its exclusive or with
'0', which turns a digit into its value. The last character is in the highest
byte; bytes below the first character are 0, like leading zeros.

A text is u8[n], n a multiple of 8, with at least `PADDING` bytes after the
last field. Fields are given by starts and lengths, int64 arrays of any shape.
"""

from typing import NamedTuple

import numpy as np

PADDING = 8
"""Minimum number of bytes in a text after its last field; their values are
arbitrary."""

_WORD = 8


class Numbers(NamedTuple):
  """Fields as numbers.

  Attributes:
    values: uint32, or int32 from `integers`; 0 for an empty field, and
      undefined for a bad one.
    bad: bool, whether a field has other characters, or a number out of range.
  """

  values: np.ndarray
  bad: np.ndarray


def _repeated(byte: int) -> np.uint64:
  """A word of eight equal bytes."""
  return np.uint64(byte * 0x0101_0101_0101_0101)


def _words(
  text: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
  """Words of fields; undefined for fields of more than 8 characters."""
  aligned = text.view('<u8')
  first = starts >> 3
  skipped = ((starts & 7) << 3).view(np.uint64)
  # Reading two aligned words is faster than one unaligned word. In NumPy, a
  # shift by 64 bits or more gives 0.
  words = aligned[first] >> skipped
  first += 1
  words |= aligned[first] << (np.uint64(64) - skipped)
  words ^= _repeated(ord('0'))
  words <<= ((_WORD - lengths) << 3).view(np.uint64)
  return words


def hexadecimals(
  text: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> Numbers:
  """Fields of up to 8 hex digits."""
  x = _words(text, starts, lengths)
  # Adding 0x80 - c sets bit 7 of characters that are c or more. A carry into
  # the next character only comes from one with bit 7 set, which is bad.
  # With bit 5 set, letters of both cases are 0x71 ... 0x76.
  lower = x | _repeated(0x20)
  letters = (lower + _repeated(0x80 - 0x71)) ^ (lower + _repeated(0x80 - 0x77))
  bad = (x | ((x + _repeated(0x80 - 10)) ^ letters)) & _repeated(0x80)
  nibbles = ((x >> np.uint64(6)) & _repeated(1)) * np.uint64(9)
  x &= _repeated(0x0F)
  x += nibbles
  # Neighbours are joined to numbers of two digits, of four, and of eight.
  x = ((x << np.uint64(4)) | (x >> np.uint64(8))) & np.uint64(0xFF00FF00FF00FF)
  x = ((x << np.uint64(8)) | (x >> np.uint64(16))) & np.uint64(0xFFFF0000FFFF)
  x = (x << np.uint64(16)) | (x >> np.uint64(32))
  return Numbers(x.astype(np.uint32), (bad != 0) | (lengths > _WORD))


def _decimals(
  text: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> Numbers:
  """Fields of up to 8 decimal digits."""
  x = _words(text, starts, lengths)
  bad = (x | (x + _repeated(0x80 - 10))) & _repeated(0x80)
  x = x * np.uint64(10) + (x >> np.uint64(8))
  x &= np.uint64(0xFF00FF00FF00FF)
  x = x * np.uint64(100) + (x >> np.uint64(16))
  x &= np.uint64(0xFFFF0000FFFF)
  x = x * np.uint64(10_000) + (x >> np.uint64(32))
  return Numbers(x.astype(np.uint32), (bad != 0) | (lengths > _WORD))


def _signed(
  text: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> Numbers:
  """Fields [n] of decimal digits with or without a minus."""
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
  """Fields of decimal digits with or without a minus -> int32."""
  values, bad = _decimals(text, starts, lengths)
  values = values.view(np.int32)
  # Few fields have a sign, or more than 8 digits.
  others = np.flatnonzero(bad)
  if len(others):
    starts, lengths = starts.reshape(-1)[others], lengths.reshape(-1)[others]
    signed = _signed(text, starts, lengths)
    values.reshape(-1)[others] = signed.values
    bad.reshape(-1)[others] = signed.bad
  return Numbers(values, bad)
