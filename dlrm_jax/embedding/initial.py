"""First values: any shard of a stack is made by itself, from cell to value.

No table is ever whole anywhere: the inverse of the layout says which table
and row lives at an address, and an `Initializer` makes that very cell.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.embedding.layout import Layout, inverse
from dlrm_jax.embedding.table import Table


def shard_values(
  layout: Layout,
  tables: tuple[Table, ...],
  stack: str,
  seeds: jax.Array,
  shard: jax.Array,
) -> jax.Array:
  """First values of a shard, f32[P, D]; 0 where no row lives.

  Args:
    layout: of all tables.
    tables: all of them.
    stack: whose shard.
    seeds: u32[T], one a table.
    shard: i32[], its number.
  """
  number, row = inverse(layout, stack, shard)
  blocks = layout.in_stack(stack)
  names = [table.name for table in tables]
  of_block = np.array([names.index(name) for name, _ in blocks], np.int32)
  bounds = np.array([_bound(tables[i]) for i in of_block], np.float32)
  start = np.array([block.column for _, block in blocks], np.int32)
  at = jnp.maximum(number, 0)
  column = jnp.asarray(start)[at][:, None]
  column = column + jnp.arange(blocks[0][1].dim, dtype=jnp.int32)[None]
  cells = (
    seeds[jnp.asarray(of_block)[at]][:, None],
    row[:, None],
    column,
    jnp.asarray(bounds)[at][:, None],
  )
  made = jnp.zeros(column.shape, jnp.float32)
  inits = [tables[i].init for i in of_block]
  for init in dict.fromkeys(inits):
    uses = jnp.asarray(np.array([init == other for other in inits]))[at]
    here = (uses & (number >= 0))[:, None]
    made = jnp.where(here, init(*cells), made)
  return made


def _bound(table: Table) -> float:
  return table.rows**-0.5 if table.bound is None else table.bound
