"""Checksums of arrays, by blocks of rows: of what is saved and what is read.

The sum of a block is the sum, modulo 2^32, of all its elements, each of which
was first mixed with its row and column by a bijection. So one changed element
always changes the sum, other changes all but once in 2^32 times, and moved
rows count as changed. Sums of saved arrays are made where the arrays are,
those of what was read on the host; both give the same numbers.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from dlrm_jax.sharding import AXIS, COPIED, SPLIT, make_mesh

PIECE = 4 * 2**20
"""Bytes that are written, and can be read, by themselves."""
SMALL = 16 * 2**20
"""Bytes of an array whose sum is made on the host."""
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


def piece_rows(x: jax.Array) -> int:
  """Rows of the pieces in which an array is written.

  They divide the rows of a device, and are as near to `PIECE` as that allows.
  """
  rows, *rest = x.sharding.shard_shape(x.shape) or (1,)
  row_bytes = math.prod(rest) * x.dtype.itemsize
  if rows * row_bytes <= PIECE:
    return rows
  small = [k for k in range(1, math.isqrt(rows) + 1) if rows % k == 0]
  return min(
    small + [rows // k for k in small],
    key=lambda k: abs(math.log(k * row_bytes / PIECE)),
  )


def _mix(x: Any) -> Any:
  """`rows.mix32`, of NumPy's and of JAX's u32[...]."""
  x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
  return x ^ (x >> 16)


def _mixed(words: Any, rows: Any, columns: Any) -> Any:
  """Elements u32[n, C] mixed with their rows u32[n] and columns u32[C].

  All are NumPy's or all are JAX's.
  """
  return _mix(words ^ (_mix(rows)[:, None] + _mix(columns)[None]))


def _sum_on_device(x: jax.Array, first: jax.Array) -> jax.Array:
  """Of one block, u32[]; `first` is its first row."""
  unsigned = jnp.dtype(f'uint{8 * x.dtype.itemsize}')
  words = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
  words = words.reshape(len(x), -1)
  rows = jnp.arange(len(x), dtype=jnp.uint32) + first.astype(jnp.uint32)
  columns = jnp.arange(words.shape[1], dtype=jnp.uint32) + jnp.uint32(_SALT)
  return _mixed(words, rows, columns).sum(0, dtype=jnp.uint32).sum()


def _sums_of_part(x: jax.Array, first: jax.Array, block: int) -> jax.Array:
  """Of the blocks of a device's part, u32[blocks].

  One block after the other: a sum of all at once would first be written out.
  """
  whole = len(x) // block

  def sum_one(k: jax.Array) -> jax.Array:
    piece = jax.lax.dynamic_slice_in_dim(x, k * block, block)
    return _sum_on_device(piece, first + k * block)

  sums = jax.lax.map(sum_one, jnp.arange(whole, dtype=jnp.int32))
  if whole * block == len(x):
    return sums
  tail = _sum_on_device(x[whole * block :], first + whole * block)
  return jnp.concatenate([sums, tail[None]])


@functools.partial(jax.jit, static_argnames=('block', 'cut'))
def _sums_on_devices(x: jax.Array, block: int, cut: Any) -> jax.Array:
  """Of all blocks; `cut` is the mesh along which the array is cut, or None."""
  if cut is None:
    return _sums_of_part(x, jnp.int32(0), block)

  def sums(part: jax.Array) -> jax.Array:
    first = jax.lax.axis_index(AXIS) * len(part)
    mine = _sums_of_part(part, first, block)
    return jax.lax.all_gather(mine, AXIS, tiled=True)

  return jax.shard_map(
    sums, mesh=cut, in_specs=SPLIT, out_specs=COPIED, check_vma=False
  )(x)


_sum_block = jax.jit(_sum_on_device)


def sum_of(values: np.ndarray, first: int, many: bool) -> int:
  """Of one block that is on the host.

  Args:
    values: the block.
    first: its first row.
    many: whether many blocks of this shape come; a device sums faster, but
      its program must be compiled.
  """
  if many:
    # By itself on one device: other processes read other blocks.
    alone = make_mesh(jax.local_devices()[:1])
    with jax.set_mesh(alone):
      return int(
        _sum_block(
          jax.device_put(values, NamedSharding(alone, COPIED)), np.int32(first)
        )
      )
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


def sums_of(x: jax.Array) -> Sums:
  """Checksums of an array; all processes come here."""
  rows = x.shape[0] if x.ndim else 1
  here = x.is_fully_replicated or x.is_fully_addressable
  if x.nbytes <= SMALL and here:
    return Sums(rows, rows, (sum_of(np.asarray(x), 0, False),))
  part = x.sharding.shard_shape(x.shape)[0]
  block = min(piece_rows(x), max(1, 2 * PIECE * part // x.nbytes))
  where = x.sharding
  cut = where.mesh if isinstance(where, NamedSharding) else None
  if x.is_fully_replicated:
    cut = None
  sums = np.asarray(_sums_on_devices(x, block, cut))
  return Sums(part, block, tuple(map(int, sums)))


def to_json(sums: dict[str, Sums]) -> dict[str, Any]:
  """For a file."""
  return {name: x._asdict() for name, x in sums.items()}


def from_json(saved: dict[str, Any]) -> dict[str, Sums]:
  """What `to_json` made."""
  return {
    name: Sums(x['part'], x['block'], tuple(x['sums']))
    for name, x in saved.items()
  }
