"""Categorical values as unsigned integers, the same everywhere and for ever.

A value of 32 bits is its own key, a wider integer its two's complement, a
text the first 64 bits of its BLAKE2b digest: of a billion texts the chance
that any two share a key is 3 %.
"""

import hashlib

import numpy as np
import polars as pl


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
