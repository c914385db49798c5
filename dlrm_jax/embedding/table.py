"""Tables: name, rows, width, first values, placement and storages."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlrm_jax.embedding.storage import FLOAT32, Storage
from dlrm_jax.rows import mix32

Initializer = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
"""(seed u32, row i32, column i32, bound f32) -> f32, elementwise.

A function of one cell, so that any part of a table can be initialised by
itself, and its values do not depend on its placement.
"""


def cell_bits(seed: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
  """Random bits u32 of a cell of a table, hashed from u32, i32 and i32."""
  start = mix32(mix32(row.astype(jnp.uint32)) ^ seed)
  step = column.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
  return mix32(start + step)


def uniform_by_cells(
  seed: jax.Array, row: jax.Array, column: jax.Array, bound: jax.Array
) -> jax.Array:
  """U(-bound, bound), drawn by hashing (seed, row, column), 24 bits each."""
  bits = cell_bits(seed, row, column) >> 8
  return (bits.astype(jnp.float32) * 2.0**-23 - 1.0) * bound


def normal_by_cells(
  seed: jax.Array, row: jax.Array, column: jax.Array, bound: jax.Array
) -> jax.Array:
  """N(0, bound^2), drawn by hashing (seed, row, column), 23 bits each."""
  bits = (cell_bits(seed, row, column) >> 9).astype(jnp.float32)
  uniform = (bits + 0.5) * 2.0**-22 - 1.0  # between -1 and 1, never there
  return jax.lax.erf_inv(uniform) * (2.0**0.5 * bound)


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where the rows of a table live, in logical shards.

  The usual kinds of sharding are written with two numbers and two flags:

  * row-wise: `Placement()`; rows are dealt to all shards in turn.
  * table-wise: `Placement(spread=1)`; with a spread between 1 and the number
    of shards, table-row-wise.
  * column-wise: `Placement(spread=1, columns=4)`; column blocks of the table
    are placed separately; with a larger spread, grid.
  * `Placement(replicated=True)`: each device has a copy of the whole table;
    all copies stay equal.
  * `Placement(independent=True)`: each shard has a copy of the whole table,
    which learns only from that shard's part of every batch.

  A replicated table may have a *dense* update: a step moves all of its rows,
  by the gradient of the whole table, and not only those that the batch reads.

  Attributes:
    spread: number of shards over which rows are dealt; 0: all shards.
    columns: number of column blocks that the width is cut into.
    replicated: whether every device has a copy of the table.
    independent: whether every shard has a copy that learns by itself.
    dense: whether a step updates every row of a replicated table.
  """

  spread: int = 0
  columns: int = 1
  replicated: bool = False
  independent: bool = False
  dense: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """A logical table of embeddings, `f32[rows, dim]`.

  Attributes:
    name: unique in a collection.
    rows: number of rows, R.
    dim: width, D.
    init: function that makes the first values.
    placement: shards on which the rows live.
    bound: largest magnitude of uniform first values, deviation of normal ones;
      None: sqrt(1/R), as in facebookresearch/dlrm.
    storage: codec of the rows.
    state: codec of the rows of the optimizer's state: one of `STATES`.
  """

  name: str
  rows: int
  dim: int
  init: Initializer = uniform_by_cells
  placement: Placement = Placement()
  bound: float | None = None
  storage: Storage = FLOAT32
  state: Storage = FLOAT32
