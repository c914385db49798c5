"""Checksums of arrays, by blocks of rows: of what is saved and what is read.

The sum of a block is the sum, modulo 2^32, of all its elements, each of which
was first mixed with its row and column by a bijection. So one changed element
always changes the sum, other changes all but once in 2^32 times, and moved
rows count as changed. Rows of a block may be summed in several places, in any
order: sums are made where the rows are, on the devices or on the host.
"""

import bisect
import collections
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from dlrm_jax.cluster import agreement
from dlrm_jax.rows import mix32
from dlrm_jax.sharding import AXIS, SPLIT

PIECE = 4 * 2**20
"""Bytes that are written, and can be read, by themselves."""
SMALL = 16 * 2**20
"""Bytes of an array that is summed on the host: no program is compiled."""
_IN_CACHE = 2**15  # elements that the host mixes at once
_SALT = 0x9E3779B9  # tells columns from rows


class Sums(NamedTuple):
  """Checksums of an array.

  Attributes:
    part: rows of a part; the array is cut in parts of equal size.
    block: rows of a block of a part; the last block may have fewer.
    sums: of the blocks of all parts, in order.
  """

  part: int
  block: int
  sums: tuple[int, ...]

  def blocks(self, rows: int) -> list[tuple[int, int]]:
    """First row and end of each block of an array of so many rows."""
    return [
      (start + k, min(start + k + self.block, start + self.part))
      for start in range(0, rows, self.part)
      for k in range(0, self.part, self.block)
    ]


def _rows(x: jax.Array) -> tuple[int, int]:
  """Rows of an array, and of the part of a device; a number is one row."""
  if not x.ndim:
    return 1, 1
  return x.shape[0], x.sharding.shard_shape(x.shape)[0]


def piece_rows(x: jax.Array) -> int:
  """Rows of the pieces in which an array is written.

  They divide the rows of a device, and are as near to `PIECE` as that allows.
  """
  _, rows = _rows(x)
  row_bytes = math.prod(x.shape[1:]) * x.dtype.itemsize
  if rows * row_bytes <= PIECE:
    return rows
  small = [k for k in range(1, math.isqrt(rows) + 1) if rows % k == 0]
  return min(
    small + [rows // k for k in small],
    key=lambda k: abs(math.log(k * row_bytes / PIECE)),
  )


def _mixed(words: Any, rows: Any, columns: Any) -> Any:
  """Elements u32[n, C] mixed with their rows u32[n] and columns u32[C].

  All are NumPy's or all are JAX's.
  """
  return mix32(words ^ (mix32(rows)[:, None] + mix32(columns)[None]))


def sum_of(values: np.ndarray, first: int) -> int:
  """Of rows that are on the host.

  Args:
    values: the rows, or a number.
    first: which row of the array the first one is.
  """
  unsigned = np.dtype(f'uint{8 * values.dtype.itemsize}')
  rows = len(values) if values.ndim else 1
  values = np.ascontiguousarray(values).reshape(rows, -1).view(unsigned)
  columns = np.arange(values.shape[1], dtype=np.uint32) + np.uint32(_SALT)
  total, step = 0, max(1, _IN_CACHE // max(values.shape[1], 1))
  for start in range(0, rows, step):
    words = values[start : start + step].astype(np.uint32, copy=False)
    numbers = first + start + np.arange(len(words))
    mixed = _mixed(words, numbers.astype(np.uint32), columns)
    total += int(mixed.sum(dtype=np.uint64))
  return total % 2**32


def _sums_of_part(
  x: jax.Array, first: Any, lows: jax.Array, highs: jax.Array, size: int
) -> jax.Array:
  """Sums of some rows of a device's part, u32[n].

  One after the other: all at once would first be written out.

  Args:
    x: the part.
    first: which row of the array its first one is.
    lows: i32[n], first rows of what is summed, counted in the part.
    highs: i32[n], the rows behind the last ones.
    size: at least the most rows of a sum, at most those of the part.
  """
  unsigned = jnp.dtype(f'uint{8 * x.dtype.itemsize}')

  def one(ends: tuple[jax.Array, jax.Array]) -> jax.Array:
    low, high = ends
    start = jnp.minimum(low, len(x) - size)
    piece = jax.lax.dynamic_slice_in_dim(x, start, size)
    words = jax.lax.bitcast_convert_type(piece, unsigned).astype(jnp.uint32)
    words = words.reshape(size, -1)
    rows = start + jnp.arange(size, dtype=jnp.int32)
    columns = jnp.arange(words.shape[1], dtype=jnp.uint32) + jnp.uint32(_SALT)
    mixed = _mixed(words, (first + rows).astype(jnp.uint32), columns)
    inside = ((rows >= low) & (rows < high))[:, None]
    return jnp.where(inside, mixed, jnp.uint32(0)).sum(dtype=jnp.uint32)

  return jax.lax.map(one, (lows, highs))


@functools.partial(jax.jit, static_argnames=('size', 'cut'))
def _sums_on_devices(
  x: jax.Array, lows: jax.Array, highs: jax.Array, size: int, cut: Any
) -> jax.Array:
  """As `_sums_of_part` of all parts, u32[parts, n].

  Args:
    x: the array.
    lows: i32[parts, n].
    highs: i32[parts, n].
    size: of all of them.
    cut: the mesh along which the array is cut; None: one device has it.
  """
  if cut is None:
    return _sums_of_part(x, 0, lows[0], highs[0], size)[None]

  def sums(part: jax.Array, lows: jax.Array, highs: jax.Array) -> jax.Array:
    first = jax.lax.axis_index(AXIS) * len(part)
    return _sums_of_part(part, first, lows[0], highs[0], size)[None]

  return jax.shard_map(
    sums, mesh=cut, in_specs=SPLIT, out_specs=SPLIT, check_vma=False
  )(x, lows, highs)


def _shards(x: jax.Array) -> dict[int, jax.Array]:
  """Parts that this process has, each once, by their first rows."""
  return {
    (shard.index[0].start or 0) if x.ndim else 0: shard.data
    for shard in x.addressable_shards
  }


class LocalSums:
  """Sums of the rows that this process has of an array.

  Devices start to sum at once; `numbers` waits for them.
  """

  def __init__(self, x: jax.Array, cuts: list[tuple[int, int]]) -> None:
    """Starts to sum; where devices share the array, all processes come here.

    Args:
      x: the array.
      cuts: first row and end of each block, as `Sums.blocks` gives them.
    """
    self._x, self._cuts = x, cuts
    self._starts = [start for start, _ in cuts]
    self._late = None
    rows, part = _rows(x)
    copied = x.is_fully_replicated and len(x.sharding.device_set) > 1
    if x.nbytes <= SMALL or copied:
      return
    self._ranges = [
      self._overlaps(first, first + part) for first in range(0, rows, part)
    ]
    most = max(map(len, self._ranges))
    ends = np.zeros((2, len(self._ranges), most), np.int32)
    for d, found in enumerate(self._ranges):
      for n, (_, low, high) in enumerate(found):
        ends[:, d, n] = low - d * part, high - d * part
    self._late = _sums_on_devices(
      x,
      *ends,
      size=int((ends[1] - ends[0]).max()),
      cut=x.sharding.mesh if isinstance(x.sharding, NamedSharding) else None,
    )

  def _overlaps(self, low: int, high: int) -> list[tuple[int, int, int]]:
    """Blocks that share rows with some; their number, those rows."""
    first = bisect.bisect_right(self._starts, low) - 1
    last = bisect.bisect_left(self._starts, high)
    return [
      (k, max(self._cuts[k][0], low), min(self._cuts[k][1], high))
      for k in range(first, last)
    ]

  def absent(self, k: int) -> list[tuple[int, int]]:
    """Rows of a block that only other processes have: first and end."""
    _, part = _rows(self._x)
    firsts = _shards(self._x)
    low, high = min(firsts), max(firsts) + part
    start, end = self._cuts[k]
    parts = (start, min(end, low)), (max(start, high), end)
    return [(a, b) for a, b in parts if a < b]

  def numbers(self) -> dict[int, int]:
    """By block, of its rows that are here."""
    found: dict[int, int] = collections.defaultdict(int)
    if self._late is not None:
      for d, sums in _shards(self._late).items():
        values = np.asarray(sums)[0, : len(self._ranges[d])]
        for (k, _, _), value in zip(self._ranges[d], values, strict=True):
          found[k] += int(value)
    else:
      _, part = _rows(self._x)
      for low, shard in _shards(self._x).items():
        values = np.asarray(shard)
        for k, start, end in self._overlaps(low, low + part):
          some = values[start - low : end - low] if values.ndim else values
          found[k] += sum_of(some, start)
    return {k: value % 2**32 for k, value in found.items()}


def sums_of(arrays: Mapping[str, jax.Array]) -> dict[str, Sums]:
  """Checksums of arrays, whose blocks are the pieces that are written.

  All processes come here.
  """
  found, started = {}, {}
  for name, x in arrays.items():
    rows, part = _rows(x)
    sums = Sums(part, piece_rows(x), ())
    cuts = sums.blocks(rows)
    found[name] = sums, len(cuts)
    started[name] = LocalSums(x, cuts)
  numbers = {name: np.zeros(n, np.int64) for name, (_, n) in found.items()}
  for name, local in started.items():
    for k, value in local.numbers().items():
      numbers[name][k] = value
  # Blocks of which every process has but some rows, or none.
  apart = [name for name, x in arrays.items() if not x.is_fully_replicated]
  if apart:
    ends = np.cumsum([len(numbers[name]) for name in apart])
    totals = agreement.total_of(np.concatenate([numbers[n] for n in apart]))
    numbers |= dict(zip(apart, np.split(totals, ends[:-1]), strict=True))
  return {
    name: sums._replace(sums=tuple(int(k) % 2**32 for k in numbers[name]))
    for name, (sums, _) in found.items()
  }


def sums_to_json(sums: dict[str, Sums]) -> dict[str, Any]:
  """Checksums as a checkpoint keeps them."""
  return {name: x._asdict() for name, x in sums.items()}


def sums_from_json(saved: dict[str, Any]) -> dict[str, Sums]:
  """The checksums that `sums_to_json` wrote."""
  return {
    name: Sums(x['part'], x['block'], tuple(x['sums']))
    for name, x in saved.items()
  }
