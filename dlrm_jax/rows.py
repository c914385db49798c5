"""Rows of tables: the only ways to touch a pytree that is indexed by row.

A table is a pytree whose every leaf has rows on axis 0, and so is its
optimizer state. Rows that are not there (PAD, or past the end) read as zero
and are not written: an index never wraps around and is never clamped.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Pytree = Any


class RowGrads(NamedTuple):
  """A sparse gradient (or update) of a table: `values[i]` belongs to a row.

  Attributes:
    rows: i32[M], rows that are not in the table are ignored.
    values: f32[M, D].
  """

  rows: jax.Array
  values: jax.Array


def take(tree: Pytree, rows: jax.Array) -> Pytree:
  """Reads rows of every leaf: `x[R, ...] -> x[*rows.shape, ...]`.

  >>> take(jnp.array([[1.0], [2.0]]), jnp.array([1, -1])).tolist()
  [[2.0], [0.0]]
  """
  return jax.tree.map(
    lambda x: x.at[rows].get(
      mode='fill', fill_value=0, wrap_negative_indices=False
    ),
    tree,
  )


def put(tree: Pytree, rows: jax.Array, new: Pytree) -> Pytree:
  """Replaces distinct rows of every leaf."""
  return jax.tree.map(
    lambda x, n: x.at[rows].set(
      n, mode='drop', unique_indices=True, wrap_negative_indices=False
    ),
    tree,
    new,
  )


def add(table: jax.Array, update: RowGrads) -> jax.Array:
  """Adds to distinct rows of a table."""
  return table.at[update.rows].add(
    update.values,
    mode='drop',
    unique_indices=True,
    wrap_negative_indices=False,
  )


def representatives(rows: jax.Array) -> jax.Array:
  """One position for each distinct row: `rows[i] == rows[result[i]]`.

  Equal rows share one representative, which represents itself. Rows are
  hashed into a scratch several times their number; of the rows that meet in
  a slot one wins, the others try again with the next hash. No sort, and no
  scratch of the table's size; a CPU does it in a fifth of a sort's time.

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
    salt, found = carry
    slot = mix32(rows.astype(jnp.uint32) + salt) & jnp.uint32(slots - 1)
    slot = slot.astype(jnp.int32)
    waiting = jnp.where(found < 0, slot, slots)
    winner = (
      jnp.full(slots, -1, jnp.int32)
      .at[waiting]
      .max(position, mode='drop', wrap_negative_indices=False)
    )[slot]
    won = (found < 0) & (rows[winner] == rows)
    return salt * jnp.uint32(0x9E3779B1), jnp.where(won, winner, found)

  start = jnp.uint32(0x85EBCA6B), jnp.full(count, -1, jnp.int32)
  return lax.while_loop(unresolved, attempt, start)[1]


def mix32(x: jax.Array) -> jax.Array:
  """Scatters the bits of u32[...]: a bijection with good avalanche.

  Constants: C. Wellons, "Prospecting for hash functions" (lowbias32).
  """
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


def sum_repeated(grads: RowGrads) -> RowGrads:
  """Sums the values of repeated rows, so that each row stands once.

  A non-linear optimizer needs the square of the sum, not the sum of squares.
  The slots left over get rows outside of every table, all distinct.

  >>> summed = sum_repeated(
  ...   RowGrads(jnp.array([5, 3, 5]), jnp.array([[1.0], [2.0], [4.0]]))
  ... )
  >>> sorted(zip(summed.rows.tolist()[1:], summed.values.tolist()[1:]))
  [(3, [2.0]), (5, [5.0])]
  """
  first = representatives(grads.rows)
  position = jnp.arange(first.shape[0], dtype=jnp.int32)
  values = jnp.zeros_like(grads.values).at[first].add(grads.values)
  nowhere = jnp.iinfo(jnp.int32).max - position
  stands = (first == position) & (grads.rows >= 0)
  return RowGrads(jnp.where(stands, grads.rows, nowhere), values)
