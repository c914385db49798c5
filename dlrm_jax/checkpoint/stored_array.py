"""An array of a checkpoint on disk, whose blocks are checked when read."""

import bisect
import collections
import math
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from dlrm_jax.checkpoint import checksums
from dlrm_jax.checkpoint.checksums import Sums
from dlrm_jax.checkpoint.damage import Damaged, result_of

_AHEAD = 16 * 2**20  # bytes that are read while a block is checked
_KEPT = 16 * 2**20  # bytes of an array that are kept for the next read


class StoredArray:
  """An array of a checkpoint; slices of it are compared with its checksums."""

  def __init__(
    self, where: str, array: ts.TensorStore, sums: Sums | None
  ) -> None:
    """Wraps an open array.

    Args:
      where: folder and name, for messages.
      array: the open array.
      sums: its checksums; None: an earlier version wrote none.
    """
    self.shape, self.dtype = array.shape, array.dtype.numpy_dtype
    self._where, self._array = where, array
    rows = self.shape[0] if self.shape else 1
    if sums is None:
      piece = (array.chunk_layout.read_chunk.shape or (1,))[0]
      self.cuts = Sums(rows, piece or rows, ()).blocks(rows)
    else:
      self.cuts = sums.blocks(rows)
      if len(self.cuts) != len(sums.sums):
        raise Damaged(f'{where}: its checksums are of another array')
    self._sums = None if sums is None else sums.sums
    self._starts = [start for start, _ in self.cuts]
    most = max((end - start for start, end in self.cuts), default=1)
    most *= math.prod(self.shape[1:]) * self.dtype.itemsize
    self._ahead = max(1, _AHEAD // max(most, 1))
    self._most_kept = self._ahead + _KEPT // max(most, 1)
    self._kept: collections.OrderedDict[int, np.ndarray] = (
      collections.OrderedDict()
    )

  def __getitem__(self, rows: slice) -> np.ndarray:
    """A copy of some rows."""
    low, high, _ = rows.indices(self.shape[0])
    values = np.empty((high - low, *self.shape[1:]), self.dtype)
    first = bisect.bisect_right(self._starts, low) - 1
    last = bisect.bisect_left(self._starts, high)
    coming: dict[int, Any] = {}
    for k in range(first, last):
      for ahead in range(k, min(k + self._ahead, last)):
        if ahead not in self._kept and ahead not in coming:
          coming[ahead] = self._array[slice(*self.cuts[ahead])].read()
      start, end = self.cuts[k]
      a, b = max(start, low), min(end, high)
      block = self._block(k, coming.pop(k, None))
      values[a - low : b - low] = block[a - start : b - start]
    return values

  def _block(self, k: int, coming: Any) -> np.ndarray:
    """A block: one of those kept, or one that is being read."""
    if coming is None:
      return self._kept[k]
    values = np.asarray(result_of(coming))
    self._compare(k, checksums.sum_of(values, self._starts[k]))
    self._kept[k] = values
    if len(self._kept) > self._most_kept:
      self._kept.popitem(last=False)
    return values

  def unchecked(self, index: tuple[slice, ...]) -> np.ndarray:
    """A part that is not compared with checksums; `check` does so later."""
    return np.asarray(result_of(self._array[index].read()))

  def summed(self, x: jax.Array) -> checksums.LocalSums | None:
    """Starts to sum an array that was read; None if there are no checksums."""
    return None if self._sums is None else checksums.LocalSums(x, self.cuts)

  def check(self, local: checksums.LocalSums) -> None:
    """Compares the blocks of which this process has rows.

    Raises:
      Damaged: one of them is not as it was written.
    """
    for k, value in local.numbers().items():
      # Sums are of whole blocks, so rows of other processes are read, too.
      for low, high in local.absent(k):
        value += checksums.sum_of(self.unchecked((slice(low, high),)), low)
      self._compare(k, value % 2**32)

  def _compare(self, k: int, value: int) -> None:
    start, end = self.cuts[k]
    if self._sums is not None and self._sums[k] != value:
      raise Damaged(
        f'{self._where}: rows {start:,} to {end - 1:,} differ from their '
        f'checksum'
      )
