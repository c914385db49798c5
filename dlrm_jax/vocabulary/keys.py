"""Keys of categorical values: unsigned integers, equal on every machine.

The key of a 32-bit value is the value, the key of a wider integer its two's
complement, and the key of a text the first 64 bits of its BLAKE2b digest:
among a billion texts, two share a key with a probability of 3 %.

Logs may hold signed and unsigned 64-bit integers, -2^63 ... 2^64 - 1, which are
1.5 times as many as there are keys. Integers from 2^63 on share the keys of
the negative integers, in scrambled order. A column without negative values
has no shared keys; in a column with n negative values and m values of 2^63 or
more, two values share a key with a probability of n m / 2^63.
"""

import hashlib

import numpy as np
import polars as pl

_SCRAMBLED = 0x1B873593CC9E2D51
"""63 arbitrary bits."""


def as_int64(value: int) -> int:
  """A signed or unsigned 64-bit integer as a column of Int64 stores it."""
  return value if value < 2**63 else (value ^ _SCRAMBLED) - 2**64


def of_int64(value: int) -> int:
  """The integer of 2^63 or more that `as_int64` maps to a negative value."""
  return (value + 2**64) ^ _SCRAMBLED


def column_as_int64(values: pl.Expr) -> pl.Expr:
  """`as_int64` of a column of UInt64 whose values are 2^63 or more."""
  mixed = values ^ pl.lit(_SCRAMBLED, dtype=pl.UInt64)
  return mixed.reinterpret(signed=True)


def in_hex(key: pl.Expr) -> pl.Expr:
  """32-bit keys as the eight hex digits of a Criteo log; null stays null."""
  digits = [
    (key.cast(pl.UInt64) // 16**place % 16) for place in range(7, -1, -1)
  ]
  letters = dict(enumerate('0123456789abcdef'))
  text = pl.concat_str(
    digit.replace_strict(letters, return_dtype=pl.String, default='')
    for digit in digits
  )
  return pl.when(key.is_not_null()).then(text)


def keys_of(values: pl.Series) -> tuple[np.ndarray, np.ndarray | None]:
  """Keys of values.

  Args:
    values: n values of type UInt32, another integer type, or String.

  Returns:
    Keys u32[n] or u64[n], and which values are missing, bool[n]; None if no
    value is missing.
  """
  missing = values.is_null().to_numpy() if values.null_count() else None
  if values.dtype == pl.String:
    return _texts(values), missing
  if values.dtype == pl.UInt32:
    return values.fill_null(0).to_numpy(), missing
  wide = values.cast(pl.Int64).fill_null(0).to_numpy()
  return wide.view(np.uint64), missing


def _texts(values: pl.Series) -> np.ndarray:
  # A column has few distinct texts, and only these are hashed.
  distinct = values.drop_nulls().unique()
  codes = values.cast(pl.Enum(distinct)).to_physical().fill_null(0)
  hashed = [
    hashlib.blake2b(text.encode(), digest_size=8).digest() for text in distinct
  ]
  keys = np.frombuffer(b''.join(hashed) or bytes(8), '<u8').astype(np.uint64)
  return keys[codes.to_numpy()]
