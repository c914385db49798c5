"""Lookup tables from keys to rows, built once and queried with whole arrays.

32-bit keys are in a hash table with linear probing, in NumPy. (Measured: a
Polars join, which hashes the vocabulary again for every block, and a binary
search take twice as long, and much longer for millions of keys.) 64-bit keys
are in a sorted array. A table is one array, so processes can map it from a
file and share it.
"""

from pathlib import Path

import numpy as np

_HALF = np.uint64(32)

TABLE_BYTES = {4: 17, 8: 16}
"""Bytes per key of a built table, by bytes of the key."""

BUILD_BYTES = 56
"""Approximate bytes per key while a table is built."""


class Lookup:
  """A lookup table; keys that it does not hold have row 0.

  Attributes:
    array: u64[1 + slots] for 32-bit keys, u64[2, n] for 64-bit keys. A file of
      a table holds this array.
  """

  def __init__(self, array: np.ndarray) -> None:
    self.array = array
    if array.ndim == 1:  # The number of homes, then the slots.
      self._homes, self._slots = np.uint64(array[0]), array[1:]

  @classmethod
  def of(cls, keys: np.ndarray, rows: np.ndarray) -> 'Lookup':
    """The table of distinct keys, u32[n] or u64[n], with rows above 0."""
    return cls(
      _hashed(keys, rows) if keys.itemsize == 4 else _sorted(keys, rows)
    )

  @classmethod
  def open(cls, path: Path) -> 'Lookup':
    """Maps the array of a table that was saved with `np.save`."""
    # A plain array over the map: slicing a `memmap` takes as long as a lookup.
    return cls(np.asarray(np.load(path, mmap_mode='r')))

  def __call__(self, keys: np.ndarray) -> np.ndarray:
    """Keys u32[n] or u64[n] -> rows i32[n], 0 for unknown keys."""
    if self.array.ndim == 2:
      return self._searched(keys)
    slot = _home(keys, self._homes)
    entry = self._slots[slot]
    # An empty slot ends the search; its row is 0.
    wrong = (entry != 0) & (entry >> _HALF != keys)
    left = np.flatnonzero(wrong)
    while left.size:
      slot[left] += 1
      probe = self._slots[slot[left]]
      entry[left] = probe
      left = left[(probe != 0) & (probe >> _HALF != keys[left])]
    return entry.astype(np.uint32).view(np.int32)

  def _searched(self, keys: np.ndarray) -> np.ndarray:
    known, rows = self.array
    if not len(known):
      return np.zeros(len(keys), np.int32)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[place] == keys, rows[place], 0).astype(np.int32)


def _home(keys: np.ndarray, homes: np.uint64) -> np.ndarray:
  mixed = keys.astype(np.uint32) * np.uint32(2654435769)
  return (mixed * homes >> _HALF).astype(np.int64)


def _hashed(keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
  homes = np.uint64(2 * len(keys) + 1)
  home = _home(keys, homes)
  order = np.argsort(home, kind='stable')
  # In the order of their homes, keys take their home or the next free slot.
  home = home[order] - np.arange(len(keys))
  slot = np.maximum.accumulate(home, out=home) + np.arange(len(keys))
  end = int(slot[-1]) if len(keys) else 0
  array = np.zeros(max(int(homes), end + 1) + 2, np.uint64)
  array[0] = homes
  entries = keys[order].astype(np.uint64) << _HALF
  entries |= rows[order].astype(np.uint64)
  array[1:][slot] = entries
  return array


def _sorted(keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
  order = np.argsort(keys)
  return np.stack([keys[order], rows[order].astype(np.uint64)])
