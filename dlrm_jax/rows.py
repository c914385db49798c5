"""Reading and writing rows of arrays: the only functions that do so.

A table and its optimizer state are pytrees whose leaves have rows on axis 0.
Rows that do not exist (PAD, or past the end) read as zero and are not
written: an index neither wraps around nor is clamped.

A leaf may be *packed*: k narrow rows side by side form one row of 128
numbers, which a TPU's memory holds without padding. Row `r` is then part
`r % k` of `x[r // k]`. CPUs and GPUs read the same memory as `[R, D]`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dlrm_jax.batch import PAD

Pytree = Any


class RowGrads(NamedTuple):
  """A sparse gradient (or update) of a table; rows can repeat.

  Attributes:
    rows: i32[M]; or i32[M, L] where each value belongs to L rows, like the
      gradient of a bag. Row numbers outside the table are ignored.
    values: f32[M, D].
  """

  rows: jax.Array
  values: jax.Array

  def flat(self) -> 'RowGrads':
    """The same gradient with one value for each row, f32[M * L, D]."""
    rows, values = self
    if rows.ndim > 1:
      shape = *rows.shape, values.shape[1]
      values = jnp.broadcast_to(values[:, None], shape)
    return RowGrads(rows.reshape(-1), values.reshape(-1, values.shape[-1]))


LANES = 128
"""Width of a row of a TPU's memory, in numbers; narrower rows are padded."""


def packed(dim: int) -> int:
  """Number of rows of this width that are packed into 128 numbers.

  A TPU pads the last axis to 128, and a scatter into narrower rows copies
  the whole table to that form and back in every step. Rows whose width does
  not divide 128 are not packed.

  >>> packed(16), packed(128), packed(48)
  (8, 1, 1)
  """
  return LANES // dim if dim < LANES and LANES % dim == 0 else 1


def take(
  tree: Pytree, rows: jax.Array, dim: int | None = None, exist: bool = False
) -> Pytree:
  """Reads rows of every leaf: `x[R, ...] -> x[*rows.shape, ...]`.

  Args:
    tree: leaves `[R]` or `[R, D]`, or packed: `[R / k, k * D]`.
    rows: i32[...].
    dim: D; needed where leaves may be packed.
    exist: whether it is known that all rows are 0 ... R - 1. Others are read
      as zeros; where this is said of them, anything can happen.

  >>> take(jnp.array([[1.0], [2.0]]), jnp.array([1, -1])).tolist()
  [[2.0], [0.0]]
  >>> take(jnp.array([[1.0, 2.0, 3.0, 4.0]]), jnp.array([1]), 2).tolist()
  [[3.0, 4.0]]
  """

  def take_leaf(x: jax.Array) -> jax.Array:
    if x.ndim == 1 or dim is None or x.shape[1] == dim:
      return _take(x, rows, exist)
    return lax.platform_dependent(
      x,
      rows,
      tpu=functools.partial(_take_packed, dim=dim),
      default=lambda x, rows: _take(x.reshape(-1, dim), rows, exist),
    )

  return jax.tree.map(take_leaf, tree)


def _take(x: jax.Array, rows: jax.Array, exist: bool = False) -> jax.Array:
  if exist:
    return x.at[rows].get(mode='promise_in_bounds', wrap_negative_indices=False)
  return x.at[rows].get(mode='fill', fill_value=0, wrap_negative_indices=False)


def _take_packed(x: jax.Array, rows: jax.Array, dim: int) -> jax.Array:
  k = x.shape[1] // dim
  wide = _take(x, rows // k).reshape(*rows.shape, k, dim)
  # A sum of one row and zeros is exact.
  return jnp.sum(wide, -2, x.dtype, where=_part(rows, k)[..., None])


def _part(rows: jax.Array, k: int) -> jax.Array:
  """Position of each row among the k rows packed with it, bool[..., k]."""
  number = lax.broadcasted_iota(jnp.int32, (*rows.shape, k), rows.ndim)
  return (rows % k)[..., None] == number


def _widened(values: jax.Array, rows: jax.Array, k: int) -> jax.Array:
  """Packed rows f32[M, k * D]: each value at its position, zeros elsewhere."""
  part = _part(rows, k)[..., None]
  wide = jnp.where(part, values[..., None, :], 0)
  return wide.reshape(len(rows), k * values.shape[1])


def put(tree: Pytree, rows: jax.Array, new: Pytree) -> Pytree:
  """Replaces distinct rows of every leaf, packed or not."""

  def put_leaf(x: jax.Array, n: jax.Array) -> jax.Array:
    if x.shape[1:] == n.shape[1:]:
      return _put(x, rows, n)
    return lax.platform_dependent(
      x,
      rows,
      n,
      tpu=_put_packed,
      default=lambda x, rows, n: _put(
        x.reshape(-1, n.shape[1]), rows, n
      ).reshape(x.shape),
    )

  return jax.tree.map(put_leaf, tree, new)


def _put(x: jax.Array, rows: jax.Array, new: jax.Array) -> jax.Array:
  return x.at[rows].set(
    new, mode='drop', unique_indices=True, wrap_negative_indices=False
  )


def _put_packed(x: jax.Array, rows: jax.Array, new: jax.Array) -> jax.Array:
  k = x.shape[1] // new.shape[1]
  others = 1 - _widened(jnp.ones_like(new), rows, k)
  # Rows packed together share an index: each clears its part, then adds.
  cleared = x.at[rows // k].multiply(
    others, mode='drop', wrap_negative_indices=False
  )
  return _add_packed(cleared, rows, new)


def add(table: jax.Array, update: RowGrads) -> jax.Array:
  """Adds to distinct rows of a table, packed or not."""
  rows, values = update
  if table.shape[1] == values.shape[1]:
    return _add(table, rows, values)
  return lax.platform_dependent(
    table,
    rows,
    values,
    tpu=_add_packed,
    default=lambda x, rows, values: _add(
      x.reshape(-1, values.shape[1]), rows, values
    ).reshape(x.shape),
  )


def _add(x: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
  return x.at[rows].add(
    values, mode='drop', unique_indices=True, wrap_negative_indices=False
  )


def _add_repeated(
  x: jax.Array, rows: jax.Array, values: jax.Array
) -> jax.Array:
  if rows.ndim == 1:
    return _add_flat(x, rows, values)
  return lax.platform_dependent(
    x, rows, values, cpu=_add_in_turns, default=_add_flat
  )


def _add_flat(x: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
  rows, values = RowGrads(rows, values).flat()
  return x.at[rows].add(values, mode='drop', wrap_negative_indices=False)


def _add_in_turns(
  x: jax.Array, rows: jax.Array, values: jax.Array
) -> jax.Array:
  """Adds to the first row of every bag, then the second, ...

  So f32[M * L, D] never exists, and the values stay in a CPU's caches. A GPU
  would have to wait for each of the L turns.
  """

  def turn(j: jax.Array, x: jax.Array) -> jax.Array:
    row_of_bag = lax.dynamic_index_in_dim(rows, j, 1, keepdims=False)
    return _add_flat(x, row_of_bag, values)

  return lax.fori_loop(0, rows.shape[1], turn, x)


def summed_by_row(grads: RowGrads, rows: int) -> jax.Array:
  """The gradient of a whole table f32[R, D], of which R is `rows`."""
  dim = grads.values.shape[1]
  zeros = jnp.zeros((rows, dim), grads.values.dtype)
  return _add_repeated(zeros, grads.rows, grads.values)


def _add_packed(x: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
  k = x.shape[1] // values.shape[1]
  return x.at[rows // k].add(
    _widened(values, rows, k), mode='drop', wrap_negative_indices=False
  )


def representatives(rows: jax.Array) -> jax.Array:
  """One position for each distinct row: `rows[i] == rows[result[i]]`.

  Equal rows share one position, which is that of one of them. Rows are hashed
  into a scratch array of four to eight slots a row; of the rows that meet in
  a slot one wins, the others try again with the next hash. There is no sort,
  and no array of the table's size; on a CPU it takes a fifth of the time of a
  sort.

  Args:
    rows: i32[M].

  Returns:
    i32[M], positions.
  """
  count = rows.shape[0]
  slots = 1 << max(4 * count - 1, 1).bit_length()
  position = jnp.arange(count, dtype=jnp.int32)

  def unresolved(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
    return jnp.any(carry[1] < 0)

  def attempt(
    carry: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, jax.Array]:
    salt, result = carry
    slot = mix32(rows.astype(jnp.uint32) + salt) & jnp.uint32(slots - 1)
    slot = slot.astype(jnp.int32)
    waiting = jnp.where(result < 0, slot, slots)
    winner = (
      jnp.full(slots, -1, jnp.int32)
      .at[waiting]
      .max(position, mode='drop', wrap_negative_indices=False)
    )[slot]
    won = (result < 0) & (rows[winner] == rows)
    return salt * jnp.uint32(0x9E3779B1), jnp.where(won, winner, result)

  start = jnp.uint32(0x85EBCA6B), jnp.full(count, -1, jnp.int32)
  return lax.while_loop(unresolved, attempt, start)[1]


def mix32(x: Any) -> Any:
  """Hashes u32[...] elementwise: a bijection with good avalanche.

  Works on arrays of JAX and of NumPy. Constants: C. Wellons, "Prospecting for
  hash functions" (lowbias32).
  """
  x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
  return x ^ (x >> 16)


def sum_repeated(grads: RowGrads) -> RowGrads:
  """Sums the values of repeated rows, so that each row occurs once.

  A non-linear optimizer needs the square of the sum, not the sum of squares.
  Unused slots get distinct negative row numbers, which reads and writes
  ignore.

  >>> summed = sum_repeated(
  ...   RowGrads(jnp.array([5, 3, 5]), jnp.array([[1.0], [2.0], [4.0]]))
  ... )
  >>> sorted(zip(summed.rows.tolist(), summed.values.tolist()))[1:]
  [(3, [2.0]), (5, [5.0])]
  """
  rows = grads.rows.reshape(-1)
  first = representatives(rows)
  values = _add_repeated(
    jnp.zeros((len(rows), grads.values.shape[1]), grads.values.dtype),
    first.reshape(grads.rows.shape),
    grads.values,
  )
  position = jnp.arange(len(rows), dtype=jnp.int32)
  unused = PAD - 1 - position
  kept = (first == position) & (rows >= 0)
  return RowGrads(jnp.where(kept, rows, unused), values)
