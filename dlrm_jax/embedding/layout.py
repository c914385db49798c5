"""Layouts: the row of an array at which each row of each table lives.

Tables of equal width, kind and storages share one array, a *stack* of S * P
rows: S logical shards of P rows each, cut over the devices on axis 0. A row
`r` of a table lives at

    address(r) = shard * P + offset + r // spread
    shard      = (first + r % spread) % S

so any number of tables is one gather and one scatter, and addresses depend
only on the config: the number of devices merely has to divide S. Because rows
are dealt to shards in turn, no shard is busier than others where a vocabulary
is sorted by frequency; `first` differs from table to table, so that the most
frequent rows of the tables are on different shards, too.
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.low_precision import storage_named
from dlrm_jax.embedding.storage import FLOAT32, Storage
from dlrm_jax.rows import Pytree


class StackKind(enum.Enum):
  """What the shards of a stack hold, and how its rows travel."""

  ROWS = 'rows'  # tables read by one-hot features only: distinct rows travel
  BAGS = 'bags'  # tables read by multi-hot features: pooled bags travel
  REPLICATED = 'replicated'  # one shard, of which each device has a copy
  INDEPENDENT = 'independent'  # each shard holds all rows


class Stack(NamedTuple):
  """An array of rows, or a dict of arrays, as its storage says.

  Attributes:
    kind: what the shards hold.
    shards: number of shards, S; 1 where replicated.
    shard_rows: rows of a shard, P.
    dim: width of the rows' values, D.
    storage: codec of the rows.
    dense: whether a step updates every row, of a replicated stack.
    state: codec of the rows of the optimizer's state.
  """

  kind: StackKind
  shards: int
  shard_rows: int
  dim: int
  storage: Storage = FLOAT32
  dense: bool = False
  state: Storage = FLOAT32

  @property
  def rows(self) -> int:
    """Rows of the array."""
    return self.shards * self.shard_rows

  def local_rows(self, tree: Pytree) -> int:
    """Number of rows in a device's part of the stack's arrays."""
    return self.storage.count_rows(tree, self.dim)


class Address(NamedTuple):
  """Where a column block of a table lives.

  Attributes:
    stack: name of the stack.
    first: shard of row 0.
    spread: number of shards over which the rows are dealt.
    offset: position of the block's first row within each of these shards.
    column: the table's column at which the block begins.
    dim: number of columns of the block.
  """

  stack: str
  first: int
  spread: int
  offset: int
  column: int
  dim: int


@dataclasses.dataclass(frozen=True)
class Layout:
  """Stacks by name, and the column blocks of every table.

  Attributes:
    shards: number of logical shards, S.
    stacks: stacks by name.
    blocks: column blocks of every table by its name, from left to right.
    rows: number of rows of every table by its name.
  """

  shards: int
  stacks: Mapping[str, Stack]
  blocks: Mapping[str, tuple[Address, ...]]
  rows: Mapping[str, int]

  def locate(self, block: Address, rows: Any, node: Any = None) -> Any:
    """Rows of a table -> rows of a block's stack; PAD stays PAD.

    Args:
      block: a block of the table; or the `address_columns` of several.
      rows: i32 of any shape, of NumPy or JAX.
      node: number of the copy of an independent table, broadcastable to
        `rows`; None: the first copy.
    """
    stack = self.stacks[block.stack]
    where = np.where if isinstance(rows, np.ndarray) else jnp.where
    turn, row = _dealt(rows, block.spread)
    if stack.kind is StackKind.INDEPENDENT:
      shard = 0 if node is None else node
    elif stack.shards == 1:
      shard = 0
    else:
      shard = block.first + turn
      shard = where(shard < stack.shards, shard, shard - stack.shards)
    address = shard * stack.shard_rows + block.offset + row
    return where(rows < 0, PAD, address)

  @property
  def of_state(self) -> 'Layout':
    """The layout of the optimizer's state, as its storages keep it."""
    stacks = {k: s._replace(storage=s.state) for k, s in self.stacks.items()}
    return dataclasses.replace(self, stacks=stacks)

  def in_stack(self, stack: str) -> list[tuple[str, Address]]:
    """Blocks of a stack with the names of their tables."""
    return [
      (name, block)
      for name, blocks in self.blocks.items()
      for block in blocks
      if block.stack == stack
    ]

  def held(self, table: str, block: Address, shard: Any) -> Any:
    """Number of rows of a block that a shard holds.

    Args:
      table: name of the block's table.
      block: a block of the table.
      shard: number of a shard, or an array of numbers.
    """
    stack = self.stacks[block.stack]
    if stack.kind is StackKind.INDEPENDENT:
      return self.rows[table] + 0 * shard
    turn = (shard - block.first) % stack.shards
    rows = -(-(self.rows[table] - turn) // block.spread)
    return (turn < block.spread) * rows


def _dealt(rows: Any, spread: Any) -> tuple[Any, Any]:
  """(shard offset, local row) of rows dealt round-robin over shards.

  Args:
    rows: row numbers, 0 or more.
    spread: number of shards.
  """
  if isinstance(spread, int) and spread & (spread - 1) == 0:
    # A compiler fuses this into its gathers, where a division would cost.
    bits = spread.bit_length() - 1
    return rows & (spread - 1), rows >> bits if bits else rows
  return rows % spread, rows // spread


def address_columns(blocks: Sequence[tuple[Address, int]]) -> Address:
  """The address of rows i32[B, K] whose columns belong to several blocks.

  Args:
    blocks: blocks of one stack, each with its number of columns.
  """

  def column(name: str) -> Any:
    values = {getattr(block, name) for block, _ in blocks}
    if len(values) == 1:
      return values.pop()
    repeated = [[getattr(block, name)] * count for block, count in blocks]
    return np.concatenate(repeated).astype(np.int32)[None]

  return blocks[0][0]._replace(
    first=column('first'), spread=column('spread'), offset=column('offset')
  )


def inverse(
  layout: Layout, stack: str, shard: jax.Array, local: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The block, and the row of its table, that live at rows of a shard.

  Args:
    layout: the layout of all tables.
    stack: name of a stack.
    shard: i32[] or i32[M], number of the shard of each row.
    local: i32[M], rows within the shard.

  Returns:
    Block numbers in the order of `in_stack`, and rows of the tables: i32[M]
    each. Both are PAD where no table has a row.
  """
  shards = layout.stacks[stack].shards
  independent = layout.stacks[stack].kind is StackKind.INDEPENDENT
  number = jnp.full(local.shape, PAD, jnp.int32)
  row = jnp.full(local.shape, PAD, jnp.int32)
  for i, (name, block) in enumerate(layout.in_stack(stack)):
    turn = 0 if independent else (shard - block.first) % shards
    r = turn + block.spread * (local - block.offset)
    inside = (local >= block.offset) & (r < layout.rows[name])
    inside &= turn < block.spread
    number, row = jnp.where(inside, i, number), jnp.where(inside, r, row)
  return number, row


def layout_to_json(layout: Layout) -> dict[str, Any]:
  """A layout as a checkpoint keeps it."""
  return {
    'shards': layout.shards,
    'rows': dict(layout.rows),
    'stacks': {
      name: {
        **stack._asdict(),
        'kind': stack.kind.value,
        'storage': stack.storage.name,
        'state': stack.state.name,
      }
      for name, stack in layout.stacks.items()
    },
    'blocks': {
      name: [block._asdict() for block in blocks]
      for name, blocks in layout.blocks.items()
    },
  }


def layout_from_json(saved: Mapping[str, Any]) -> Layout:
  """The layout that a checkpoint keeps.

  Args:
    saved: what `layout_to_json` returned. Earlier versions wrote no storage,
      or none of states: theirs are float32.

  Raises:
    InputError: it names a storage that there is not.
  """
  return Layout(
    shards=saved['shards'],
    rows=dict(saved['rows']),
    stacks={
      name: Stack(**stack)._replace(
        kind=StackKind(stack['kind']),
        storage=storage_named(stack.get('storage', FLOAT32.name)),
        state=storage_named(stack.get('state', FLOAT32.name)),
      )
      for name, stack in saved['stacks'].items()
    },
    blocks={
      name: tuple(Address(**block) for block in blocks)
      for name, blocks in saved['blocks'].items()
    },
  )
