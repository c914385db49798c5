"""What a table is, and where: a name, rows, a width, a start, a placement."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlrm_jax.rows import mix32

Initializer = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
"""(seed u32, row i32, column i32, bound f32) -> f32, elementwise.

A function of one cell: any part of a table can be made by itself, wherever
it lives, and is the same wherever it lives.
"""


def uniform_by_cells(
  seed: jax.Array, row: jax.Array, column: jax.Array, bound: jax.Array
) -> jax.Array:
  """U(-bound, bound), drawn by hashing (seed, row, column), 24 bits each."""
  at = mix32(mix32(row.astype(jnp.uint32)) ^ seed)
  step = column.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
  bits = mix32(at + step) >> 8
  return (bits.astype(jnp.float32) * 2.0**-23 - 1.0) * bound


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where the rows of a table live, in logical shards.

  The sharding types of the field are two numbers and a flag:

  * row-wise: `Placement()`; rows are dealt to all shards in turn.
  * table-wise: `Placement(spread=1)`; between them, table-row-wise.
  * column-wise: `Placement(spread=1, columns=4)`: blocks of the width, placed
    each by itself; with a larger spread, grid.
  * `Placement(replicated=True)`: whole on every device, kept equal.
  * `Placement(independent=True)`: whole on every shard, each learning from
    its own part of every batch only.

  Attributes:
    spread: shards over which rows are dealt; 0: all of them.
    columns: blocks that the width is cut into.
    replicated: whether every device has all of it.
    independent: whether every shard has its own.
  """

  spread: int = 0
  columns: int = 1
  replicated: bool = False
  independent: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """A logical table of embeddings, `f32[rows, dim]`.

  Attributes:
    name: unique in a collection.
    rows: R.
    dim: D.
    init: makes the first values.
    placement: where its rows live.
    bound: of the first values' magnitude; None: sqrt(1/R), as
      facebookresearch/dlrm has it.
  """

  name: str
  rows: int
  dim: int
  init: Initializer = uniform_by_cells
  placement: Placement = Placement()
  bound: float | None = None
