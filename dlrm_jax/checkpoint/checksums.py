"""Checksums of arrays by blocks of rows, when they are saved and when read.

The sum of a block is the sum, modulo 2^32, of all its elements, each mixed
with its row and column by a bijection. So a change of one element always
changes the sum, and other changes, such as exchanged rows, change it with a
probability of 1 - 2^-32. Rows of a block may be summed in several places and
in any order: on the devices or on the host, wherever they are.
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
"""Bytes of a piece of an array, which is written and read as a unit."""
SMALL = 16 * 2**20
"""Arrays of at most so many bytes are summed on the host, not compiled."""
_IN_CACHE = 2**15  # elements that the host mixes at a time, within its cache
_SALT = 0x9E3779B9  # makes hashes of columns differ from those of rows


class Sums(NamedTuple):
  """Checksums of an array.

  Attributes:
    part: number of rows of a part; an array is cut into equal parts.
    block: number of rows of a block; the last block of a part may have fewer.
    sums: sums of the blocks of all parts, in order.
  """

  part: int
  block: int
  sums: tuple[int, ...]

  def blocks(self, rows: int) -> list[tuple[int, int]]:
    """First row and end of each block of an array with this many rows."""
    return [
      (start + k, min(start + k + self.block, start + self.part))
      for start in range(0, rows, self.part)
      for k in range(0, self.part, self.block)
    ]


def _rows(x: jax.Array) -> tuple[int, int]:
  """Number of rows of an array and of a device's part; a scalar has one."""
  if not x.ndim:
    return 1, 1
  return x.shape[0], x.sharding.shard_shape(x.shape)[0]


def piece_rows(x: jax.Array) -> int:
  """Number of rows of the pieces in which an array is written.

  It divides the rows of a device; of such numbers it is nearest to `PIECE`.
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
  """Mixes elements u32[n, C] with their rows u32[n] and columns u32[C].

  All arguments are arrays of NumPy, or all are arrays of JAX.
  """
  return mix32(words ^ (mix32(rows)[:, None] + mix32(columns)[None]))


def sum_of(values: np.ndarray, first: int) -> int:
  """Sum of rows on the host.

  Args:
    values: the rows, or a scalar.
    first: number of the first of these rows in the whole array.
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
  """Sums of ranges of rows of a device's part, u32[n].

  Computed one after the other, so that no array of the part's size is made.

  Args:
    x: the part.
    first: number of its first row in the whole array.
    lows: i32[n], first rows of the ranges, counted in the part.
    highs: i32[n], ends of the ranges.
    size: a number of rows, from that of the longest range to that of the part.
  """
  unsigned = jnp.dtype(f'uint{8 * x.dtype.itemsize}')

  def sum_range(ends: tuple[jax.Array, jax.Array]) -> jax.Array:
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

  return jax.lax.map(sum_range, (lows, highs))


@functools.partial(jax.jit, static_argnames=('size', 'cut'))
def _sums_on_devices(
  x: jax.Array, lows: jax.Array, highs: jax.Array, size: int, cut: Any
) -> jax.Array:
  """`_sums_of_part` of all parts, u32[parts, n].

  Args:
    x: the array.
    lows: i32[parts, n], first rows of the ranges.
    highs: i32[parts, n], ends of the ranges.
    size: a number of rows, the same for all parts.
    cut: the mesh that cuts the array; None: one device has it.
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
  """The distinct parts that this process has, by their first rows."""
  return {
    (shard.index[0].start or 0) if x.ndim else 0: shard.data
    for shard in x.addressable_shards
  }


class LocalSums:
  """Sums of the rows of an array that this process has.

  Devices start to sum immediately; `numbers` waits for them.
  """

  def __init__(self, x: jax.Array, cuts: list[tuple[int, int]]) -> None:
    """Starts to sum; all processes that have a part must call this.

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
    """Overlaps of rows with blocks: number of the block, first row, end."""
    first = bisect.bisect_right(self._starts, low) - 1
    last = bisect.bisect_left(self._starts, high)
    return [
      (k, max(self._cuts[k][0], low), min(self._cuts[k][1], high))
      for k in range(first, last)
    ]

  def absent(self, k: int) -> list[tuple[int, int]]:
    """Ranges of rows of a block that only other processes have."""
    _, part = _rows(self._x)
    firsts = _shards(self._x)
    low, high = min(firsts), max(firsts) + part
    start, end = self._cuts[k]
    parts = (start, min(end, low)), (max(start, high), end)
    return [(a, b) for a, b in parts if a < b]

  def numbers(self) -> dict[int, int]:
    """Sums of this process's rows of each block, by the block's number."""
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

  All processes must call this.
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
  # A process has only some rows of these, so sums are added over processes.
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
