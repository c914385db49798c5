"""Numbers of cells: first values, and noise for storages that round at random.

Both are functions of a table, a row and a column only, so they do not depend
on where the row lives. The inverse of the layout says which table and row
live at a row of a stack.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.embedding.layout import Layout, StackKind, inverse
from dlrm_jax.embedding.table import Table, cell_bits
from dlrm_jax.rows import Pytree, mix32


def shard_values(
  layout: Layout,
  tables: tuple[Table, ...],
  stack: str,
  seeds: jax.Array,
  shard: jax.Array,
) -> jax.Array:
  """First values of a shard, f32[P, D]; 0 where no table has a row.

  Args:
    layout: the layout of all tables.
    tables: all tables.
    stack: name of the shard's stack.
    seeds: u32[T], one for each table.
    shard: i32[], number of the shard.
  """
  local = jnp.arange(layout.stacks[stack].shard_rows, dtype=jnp.int32)
  number, row = inverse(layout, stack, shard, local)
  blocks = layout.in_stack(stack)
  names = [table.name for table in tables]
  of_block = np.array([names.index(name) for name, _ in blocks], np.int32)
  bounds = np.array([_bound(tables[i]) for i in of_block], np.float32)
  block = jnp.maximum(number, 0)
  cells = (
    seeds[jnp.asarray(of_block)[block]][:, None],
    row[:, None],
    _columns(layout, stack, block),
    jnp.asarray(bounds)[block][:, None],
  )
  values = jnp.zeros(cells[2].shape, jnp.float32)
  inits = [tables[i].init for i in of_block]
  for init in dict.fromkeys(inits):
    uses = jnp.asarray(np.array([init == other for other in inits]))[block]
    inside = (uses & (number >= 0))[:, None]
    values = jnp.where(inside, init(*cells), values)
  return values


def first_rows(
  layout: Layout,
  tables: tuple[Table, ...],
  stack: str,
  seeds: jax.Array,
  shards: jax.Array,
) -> Pytree:
  """The arrays of a device's part of a stack, packed.

  Args:
    layout: the layout of all tables.
    tables: all tables.
    stack: name of the stack.
    seeds: u32[T], one for each table.
    shards: i32[n], numbers of the device's shards.
  """
  about = layout.stacks[stack]

  def make(shard: jax.Array) -> Pytree:
    values = shard_values(layout, tables, stack, seeds, shard)
    return about.storage.encode(values, None)

  mine = shards[:1] * 0 if about.kind is StackKind.REPLICATED else shards
  return about.storage.pack(jax.lax.map(make, mine))


def _bound(table: Table) -> float:
  return table.rows**-0.5 if table.bound is None else table.bound


def _columns(layout: Layout, stack: str, block: jax.Array) -> jax.Array:
  """Columns of the table for rows of some blocks i32[M]: i32[M, D]."""
  starts = [address.column for _, address in layout.in_stack(stack)]
  column = jnp.asarray(np.array(starts, np.int32))[block][:, None]
  return column + jnp.arange(layout.stacks[stack].dim, dtype=jnp.int32)[None]


def noise(
  layout: Layout, stack: str, rows: jax.Array, key: jax.Array, use: int = 0
) -> jax.Array:
  """Random bits u32[M, D] for rows of a stack.

  Hashed from key, use, table, row and column: the same wherever the row lives.
  All copies of an independent table have different bits.

  Args:
    layout: the layout of all tables.
    stack: name of the stack.
    rows: i32[M], rows of the whole stack.
    key: i32[] or u32[], another one in each step.
    use: 0: the values of rows; another number for each array of their state.
  """
  shard_rows = layout.stacks[stack].shard_rows
  shard = rows // shard_rows
  number, row = inverse(layout, stack, shard, rows - shard * shard_rows)
  block = jnp.maximum(number, 0)
  tables = list(layout.rows)
  of_block = [tables.index(name) for name, _ in layout.in_stack(stack)]
  own = jnp.uint32(use * 0x9E3779B9 % 2**32)
  seed = mix32(key.astype(jnp.uint32) + own) + jnp.asarray(
    np.array(of_block, np.uint32)
  )
  seed = mix32(seed)[block]
  if layout.stacks[stack].kind is StackKind.INDEPENDENT:
    seed = mix32(seed + shard.astype(jnp.uint32))
  return cell_bits(seed[:, None], row[:, None], _columns(layout, stack, block))
