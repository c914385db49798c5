"""Categorical values as unsigned integers, the same everywhere and for ever.

A value of 32 bits is its own key, a wider integer its two's complement, a
text the first 64 bits of its BLAKE2b digest: of a billion texts the chance
that any two share a key is 3 %.

Integers of 64 bits are -2^63 ... 2^64 - 1: half as many more as there are
keys. Those from 2^63 on share the keys of the negative ones, in an order that
has nothing to do with theirs. So no two share a key in a column without
negative values; in one that has n of them and m of 2^63 or more, the chance
that any two do is n m / 2^63.
"""

import hashlib

import numpy as np
import polars as pl

_SCRAMBLED = 0x1B873593CC9E2D51
"""63 bits, of no meaning."""


def as_int64(value: int) -> int:
  """An integer of 64 bits, signed or unsigned, as columns of Int64 have it."""
  return value if value < 2**63 else (value ^ _SCRAMBLED) - 2**64


def of_int64(value: int) -> int:
  """The integer of 2^63 or more of which `as_int64` makes a negative one."""
  return (value + 2**64) ^ _SCRAMBLED


def beyond(values: pl.Expr) -> pl.Expr:
  """`as_int64` of a column of UInt64 that are 2^63 or more."""
  mixed = values ^ pl.lit(_SCRAMBLED, dtype=pl.UInt64)
  return mixed.reinterpret(signed=True)


def keys_of(values: pl.Series) -> tuple[np.ndarray, np.ndarray | None]:
  """Values -> u32[n] or u64[n], and where they are missing (None: nowhere).

  Args:
    values: UInt32, an integer of up to 64 bits, or String.
  """
  missing = values.is_null().to_numpy() if values.null_count() else None
  if values.dtype == pl.String:
    return _texts(values), missing
  if values.dtype == pl.UInt32:
    return values.fill_null(0).to_numpy(), missing
  wide = values.cast(pl.Int64).fill_null(0).to_numpy()
  return wide.view(np.uint64), missing


def _texts(values: pl.Series) -> np.ndarray:
  # Only distinct texts are hashed: few, beside the rows.
  distinct = values.drop_nulls().unique()
  codes = values.cast(pl.Enum(distinct)).to_physical().fill_null(0)
  hashed = [
    hashlib.blake2b(text.encode(), digest_size=8).digest() for text in distinct
  ]
  keys = np.frombuffer(b''.join(hashed) or bytes(8), '<u8').astype(np.uint64)
  return keys[codes.to_numpy()]
