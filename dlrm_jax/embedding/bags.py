"""Bags of rows of one stack: `pull` their sums, `push` their gradients.

Bags are summed while they are gathered, in a loop over the L rows of a bag,
so that `f32[B, K, D]` never exists. All of this is local to one device. On a
CPU, a kernel in C does it where there is one.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dlrm_jax import native
from dlrm_jax.embedding.low_precision import STORAGES
from dlrm_jax.embedding.storage import FLOAT32, Storage
from dlrm_jax.rows import Pytree, RowGrads

# Rows of a bag that one turn of the loop adds, in registers: fewer turns, and
# more reads in flight. More than that gain nothing.
_AT_ONCE = 16


_KINDS: dict[Storage, native.RowKind] = {
  STORAGES[kind.name.lower()]: kind for kind in native.RowKind
}
"""The storages that the native kernel reads."""


class Bags(NamedTuple):
  """Rows to gather from one stack, bag after bag.

  Attributes:
    rows: i32[B, K].
    weights: f32[B, K] that multiply the rows; None: all are 1.
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


class _Source(NamedTuple):
  """A stack with its storage, its width D, and whether all rows exist."""

  tree: Pytree
  storage: Storage
  dim: int
  exist: bool

  def gather(self, rows: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Weighted rows, f32[*rows.shape, D]."""
    vectors = self.storage.read(self.tree, rows, self.dim, self.exist)
    return vectors if weights is None else vectors * weights[..., None]


def _pool(
  source: _Source, rows: jax.Array, weights: jax.Array | None
) -> jax.Array:
  """Sums of bags: i32[B, G, L] -> f32[B, G, D]."""
  if rows.shape[-1] == 1:
    return source.gather(rows[..., 0], _in_bag(weights, 0))

  def add_row(j: jax.Array, total: jax.Array) -> jax.Array:
    row = lax.dynamic_index_in_dim(rows, j, 2, keepdims=False)
    return total + source.gather(row, _in_bag(weights, j))

  zero = jnp.zeros((*rows.shape[:2], source.dim), jnp.float32)
  return lax.fori_loop(0, rows.shape[-1], add_row, zero, unroll=_AT_ONCE)


def _in_bag(weights: jax.Array | None, j: jax.Array | int) -> jax.Array | None:
  """Weights of row j of each bag, f32[B, G]."""
  if weights is None:
    return None
  return lax.dynamic_index_in_dim(weights, j, 2, keepdims=False)


def pull(
  stack: Pytree,
  bags: Bags,
  groups: tuple[Group, ...],
  dim: int,
  storage: Storage = FLOAT32,
) -> jax.Array:
  """Sums of bags of rows.

  Args:
    stack: rows as the storage keeps them, packed or not.
    bags: K rows an example.
    groups: the static layout of the K rows, as G bags.
    dim: D.
    storage: codec of the rows.

  Returns:
    f32[B, G, D].
  """

  def pooled(exist: bool, stack: Pytree, bags: Bags) -> jax.Array:
    source = _Source(stack, storage, dim, exist)
    parts = [_pool(source, *cut) for cut in _split(bags, groups)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, 1)

  # CPUs read rows faster that need not be checked one by one. Bags that are
  # not full have rows that do not exist.
  def checked_at_once(stack: Pytree, bags: Bags) -> jax.Array:
    count = storage.count_rows(stack, dim)
    exist = jnp.all((bags.rows >= 0) & (bags.rows < count))
    known, unknown = (functools.partial(pooled, x) for x in (True, False))
    return lax.cond(exist, known, unknown, stack, bags)

  @jax.custom_jvp
  def by_kernel(stack: Pytree, bags: Bags) -> jax.Array:
    kind, arrays = _KINDS[storage], jax.tree.leaves(stack)
    return native.pool(kind, arrays, *bags, groups, dim)

  @by_kernel.defjvp
  def of_xla(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(functools.partial(pooled, False), primals, tangents)

  native_one = storage in _KINDS and native.in_use()
  return lax.platform_dependent(
    stack,
    bags,
    cpu=by_kernel if native_one else checked_at_once,
    default=functools.partial(pooled, False),
  )


def push(grads: jax.Array, bags: Bags, groups: tuple[Group, ...]) -> RowGrads:
  """The gradient of every gathered row: that of its bag, times its weight.

  Args:
    grads: f32[B, G, D], gradients of the bags' sums.
    bags: the rows that were pulled.
    groups: the static layout of the rows.

  Returns:
    Rows i32[B * K] and values f32[B * K, D]; or, where all bags have L rows
    without weights, i32[B * G, L] and f32[B * G, D]. Rows can repeat.
  """
  dim = grads.shape[-1]
  if bags.weights is None and len(groups) == 1:
    return RowGrads(
      bags.rows.reshape(-1, groups[0].length), grads.reshape(-1, dim)
    )
  rows, values, bag = [], [], 0
  for (count, _), (of_group, weights) in zip(
    groups, _split(bags, groups), strict=True
  ):
    g = grads[:, bag : bag + count, None, :]
    if weights is None:
      g = jnp.broadcast_to(g, (*of_group.shape, dim))
    else:
      g = g * weights[..., None]
    rows.append(of_group.reshape(-1))
    values.append(g.reshape(-1, dim))
    bag += count
  return RowGrads(jnp.concatenate(rows), jnp.concatenate(values))
