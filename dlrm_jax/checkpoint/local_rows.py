"""This process's rows of a stack, on the host, while they are moved."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from dlrm_jax.embedding.layout import Stack
from dlrm_jax.embedding.storage import FLOAT32, Storage
from dlrm_jax.rows import Pytree
from dlrm_jax.sharding import local_part

_LEAST_ROWS = 1024  # that are encoded at once


class LocalRows(NamedTuple):
  """This process's rows of a new stack.

  Attributes:
    low: the first of them.
    high: the row behind the last.
    stack: the stack.
    arrays: its arrays, [high - low, width] or [high - low].
  """

  low: int
  high: int
  stack: Stack
  arrays: Pytree

  def has(self, rows: np.ndarray) -> np.ndarray:
    """Which rows of the stack belong to this process, bool[n]."""
    return (rows >= self.low) & (rows < self.high)

  def put(self, rows: np.ndarray, kept: Pytree) -> None:
    """Writes rows as the storage keeps them, if this process has them."""
    mine = self.has(rows)

    def put_leaf(x: np.ndarray, values: Any) -> None:
      x[rows[mine] - self.low] = np.asarray(values)[mine]

    jax.tree.map(put_leaf, self.arrays, kept)

  def add_numbers(
    self, rows: np.ndarray, numbers: np.ndarray, fraction: float
  ) -> None:
    """Adds to one number a row, times the fraction of shared columns."""
    mine = self.has(rows)
    local, stack = rows[mine] - self.low, self.stack
    old = decoded(self.arrays[local], stack)
    self.arrays[local] = _encoded(old + numbers[mine] * fraction, stack)

  def put_columns(
    self, rows: np.ndarray, values: np.ndarray, columns: slice
  ) -> np.ndarray:
    """Writes some columns of the values of rows, f32[n, columns].

    Returns:
      Which rows are finite as they are kept, bool[n]; True for those of
      another process, and of float32.
    """
    mine = self.has(rows)
    local, stack = rows[mine] - self.low, self.stack
    if columns == slice(0, stack.dim):
      new = values[mine]
    else:
      old = jax.tree.map(lambda x: x[local], self.arrays)
      new = np.array(decoded(old, stack))
      new[:, columns] = values[mine]
    kept = _encoded(new, stack)
    self.put(rows[mine], kept)
    finite = np.ones(len(rows), bool)
    if stack.storage != FLOAT32:
      finite[mine] = np.isfinite(decoded(kept, stack)).all(1)
    return finite


def decoded(kept: Pytree, stack: Stack) -> np.ndarray:
  """Values f32[n, D], or f32[n], of rows as a storage keeps them."""
  if stack.storage == FLOAT32:
    return kept
  return _rowwise(_decoder(stack.storage, stack.dim), kept)


def _encoded(values: np.ndarray, stack: Stack) -> Pytree:
  """Values f32[n, D] or f32[n] as a storage keeps them, rounded to nearest."""
  if stack.storage == FLOAT32:
    return values
  return _rowwise(_encoder(stack.storage), values)


@functools.cache
def _decoder(storage: Storage, dim: int) -> Callable[[Pytree], Any]:
  return jax.jit(lambda kept: storage.decode(kept, dim))


@functools.cache
def _encoder(storage: Storage) -> Callable[[Pytree], Any]:
  return jax.jit(lambda values: storage.encode(values, None))


def _rowwise(function: Callable[[Pytree], Any], rows: Pytree) -> Any:
  """Applies a compiled function to arrays [n, width] or [n], row by row.

  So that it is compiled for few sizes, rows of zeros are added.
  """
  count = len(jax.tree.leaves(rows)[0])
  more = max(1 << (count - 1).bit_length(), _LEAST_ROWS) - count

  def padded(x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, more), *((0, 0),) * (x.ndim - 1)))

  found = function(jax.tree.map(padded, rows))
  return jax.tree.map(lambda x: np.asarray(x)[:count], found)


def side_by_side(shape: tuple[int, ...], width: int) -> int:
  """Number of rows in a row of an array, which may be packed."""
  return 1 if len(shape) == 1 else shape[1] // width


def local_range(wanted: jax.ShapeDtypeStruct) -> tuple[int, int]:
  """The rows of an array that this process has: the first, and the end."""
  indices = wanted.sharding.addressable_devices_indices_map(wanted.shape)
  cuts = [i[0].indices(wanted.shape[0]) for i in indices.values() if i]
  return min(a for a, _, _ in cuts), max(b for _, b, _ in cuts)


def local_rows(
  stack: Stack, like: Pytree, start: Pytree | None
) -> tuple[LocalRows, Pytree]:
  """This process's rows of a stack, to be written: by row, and the same packed.

  Args:
    stack: the stack.
    like: shapes, dtypes and shardings of its arrays.
    start: arrays to begin with; None: zeros.
  """
  leaves = stack.storage.leaves(stack.dim)

  def zeros(like: jax.ShapeDtypeStruct) -> np.ndarray:
    low, high = local_range(like)
    return np.zeros((high - low, *like.shape[1:]), like.dtype)

  if start is None:
    arrays = jax.tree.map(zeros, like)
  else:
    arrays = jax.tree.map(lambda x: np.array(local_part(x)), start)
  by_rows = jax.tree.map(
    lambda leaf, x: x.reshape(-1, leaf.size) if x.ndim == 2 else x,
    leaves,
    arrays,
  )
  first = jax.tree.leaves(like)[0]
  k = side_by_side(first.shape, stack.storage.arrays(stack.dim)[0].size)
  low, high = local_range(first)
  return LocalRows(low * k, high * k, stack, by_rows), arrays
