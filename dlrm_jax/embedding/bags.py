"""Bags of rows of one array: `pull` their sums, `push` their gradients.

Bags are pooled while they are gathered: for bags of L rows a loop over L
adds up, so that `f32[B, K, D]` never exists. Nothing here knows of devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dlrm_jax.rows import RowGrads, take

# Rows of a bag added in one turn of the loop, in registers: fewer turns, and
# more reads under way. More than about ten gain nothing.
_AT_ONCE = 8


class Bags(NamedTuple):
  """Rows to gather from one stack, bag after bag.

  Attributes:
    rows: i32[B, K].
    weights: f32[B, K], or None: every row counts once.
  """

  rows: jax.Array
  weights: jax.Array | None


class Group(NamedTuple):
  """Consecutive bags of equal length: `count` bags of `length` rows."""

  count: int
  length: int


def _split(
  bags: Bags, groups: tuple[Group, ...]
) -> list[tuple[jax.Array, jax.Array | None]]:
  """Cuts bags into groups, i32[B, count, length] and weights alike."""
  cut, start = [], 0
  for count, length in groups:

    def piece(
      x: jax.Array, start: int = start, count: int = count, length: int = length
    ) -> jax.Array:
      part = x[:, start : start + count * length]
      return part.reshape(x.shape[0], count, length)

    weights = None if bags.weights is None else piece(bags.weights)
    cut.append((piece(bags.rows), weights))
    start += count * length
  return cut


def _gather(
  stack: jax.Array, rows: jax.Array, weights: jax.Array | None, dim: int
) -> jax.Array:
  vectors = take(stack, rows, dim)
  return vectors if weights is None else vectors * weights[..., None]


def _pool(
  stack: jax.Array, rows: jax.Array, weights: jax.Array | None, dim: int
) -> jax.Array:
  """Sums of bags: i32[B, G, L] -> f32[B, G, D]."""
  if rows.shape[-1] == 1:
    return _gather(stack, rows[..., 0], _at(weights, 0), dim)

  def add_one(j: jax.Array, total: jax.Array) -> jax.Array:
    one = lax.dynamic_index_in_dim(rows, j, 2, keepdims=False)
    return total + _gather(stack, one, _at(weights, j), dim)

  zero = jnp.zeros((*rows.shape[:2], dim), stack.dtype)
  return lax.fori_loop(0, rows.shape[-1], add_one, zero, unroll=_AT_ONCE)


def _at(weights: jax.Array | None, j: jax.Array | int) -> jax.Array | None:
  if weights is None:
    return None
  return lax.dynamic_index_in_dim(weights, j, 2, keepdims=False)


def pull(
  stack: jax.Array, bags: Bags, groups: tuple[Group, ...], dim: int
) -> jax.Array:
  """Sums of bags of rows.

  Args:
    stack: f32[R, D], or packed.
    bags: the rows of K places, as `groups` lays them out.
    groups: the static layout, K places in G bags.
    dim: D.

  Returns:
    f32[B, G, D].
  """
  pooled = [_pool(stack, *cut, dim) for cut in _split(bags, groups)]
  return pooled[0] if len(pooled) == 1 else jnp.concatenate(pooled, 1)


def push(grads: jax.Array, bags: Bags, groups: tuple[Group, ...]) -> RowGrads:
  """The gradient of every gathered row: that of its bag, times its weight.

  Args:
    grads: f32[B, G, D], of the bags.
    bags: the rows that were pulled.
    groups: their layout.

  Returns:
    Rows i32[B * K] and values f32[B * K, D]; or, where all bags have L rows
    that count once, i32[B * G, L] and f32[B * G, D]. Rows can repeat.
  """
  dim = grads.shape[-1]
  if bags.weights is None and len(groups) == 1:
    return RowGrads(
      bags.rows.reshape(-1, groups[0].length), grads.reshape(-1, dim)
    )
  rows, values, bag = [], [], 0
  for (count, _), (at, weights) in zip(
    groups, _split(bags, groups), strict=True
  ):
    g = grads[:, bag : bag + count, None, :]
    if weights is None:
      g = jnp.broadcast_to(g, (*at.shape, dim))
    else:
      g = g * weights[..., None]
    rows.append(at.reshape(-1))
    values.append(g.reshape(-1, dim))
    bag += count
  return RowGrads(jnp.concatenate(rows), jnp.concatenate(values))
