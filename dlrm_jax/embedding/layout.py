"""Where rows live: placement is arithmetic on row addresses.

Tables of equal width and kind are one array, a stack `f32[S * P, D]`: S
logical shards of P rows each, cut over the devices on axis 0. A row `r` of a
table lives at

    address(r) = shard * P + offset + r // spread
    shard      = (first + r % spread) % S

so any number of tables is one gather and one scatter, and where a row lives
is a function of the config: the number of devices only has to divide S.
Dealing rows in turn leaves no hot shard where a vocabulary is sorted by
frequency; `first` differs from table to table, so that their heads differ,
too.
"""

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.errors import InputError
from dlrm_jax.rows import packed

MAX_ROWS = 2**31 - 1
_TILE = 8  # rows of a TPU's tile


class Kind(enum.Enum):
  """What a stack's shards hold, and how its rows travel."""

  ROWS = 'rows'  # of one-hot features only: distinct rows travel
  BAGS = 'bags'  # of multi-hot features, too: pooled bags travel
  REPLICATED = 'replicated'  # one shard, on every device
  INDEPENDENT = 'independent'  # every shard holds all rows


class Stack(NamedTuple):
  """An array `f32[shards * shard_rows, dim]`, packed as `rows.packed` says."""

  kind: Kind
  shards: int
  shard_rows: int
  dim: int

  @property
  def rows(self) -> int:
    """Rows of the array."""
    return self.shards * self.shard_rows


class Address(NamedTuple):
  """Where a column block of a table lives.

  Attributes:
    stack: its name.
    first: shard of row 0.
    spread: shards that it is dealt over.
    offset: of its first row in each of them.
    column: its first column in the table.
    dim: its columns.
  """

  stack: str
  first: int
  spread: int
  offset: int
  column: int
  dim: int


@dataclasses.dataclass(frozen=True)
class Layout:
  """Stacks by name, and the blocks of every table.

  Attributes:
    shards: S.
    stacks: by name.
    blocks: of every table, by name, in the order of their columns.
    rows: of every table.
  """

  shards: int
  stacks: Mapping[str, Stack]
  blocks: Mapping[str, tuple[Address, ...]]
  rows: Mapping[str, int]

  def locate(self, block: Address, rows: Any, node: Any = None) -> Any:
    """Rows of a table -> rows of a block's stack; PAD stays PAD.

    Args:
      block: of the table; or `address_columns` of several.
      rows: i32, any shape; numpy's or jax's.
      node: whose copy of an independent table, broadcastable to `rows`.
    """
    stack = self.stacks[block.stack]
    where = np.where if isinstance(rows, np.ndarray) else jnp.where
    turn, row = _dealt(rows, block.spread)
    if stack.kind is Kind.INDEPENDENT:
      shard = 0 if node is None else node
    elif stack.shards == 1:
      shard = 0
    else:
      shard = block.first + turn
      shard = where(shard < stack.shards, shard, shard - stack.shards)
    found = shard * stack.shard_rows + block.offset + row
    return where(rows < 0, PAD, found)

  def in_stack(self, stack: str) -> list[tuple[str, Address]]:
    """Blocks of a stack with their tables' names."""
    return [
      (name, block)
      for name, blocks in self.blocks.items()
      for block in blocks
      if block.stack == stack
    ]

  def held(self, table: str, block: Address, shard: Any) -> Any:
    """How many of a table's rows a shard has of one of its blocks.

    Args:
      table: its name.
      block: of the table.
      shard: a number, or an array of them.
    """
    stack = self.stacks[block.stack]
    if stack.kind is Kind.INDEPENDENT:
      return self.rows[table] + 0 * shard
    turn = (shard - block.first) % stack.shards
    rows = -(-(self.rows[table] - turn) // block.spread)
    return (turn < block.spread) * rows


def _dealt(rows: Any, spread: Any) -> tuple[Any, Any]:
  """Whose turn a row of 0 or more is, and which of that one's rows it is."""
  if isinstance(spread, int) and spread & (spread - 1) == 0:
    # A compiler puts this into its gathers, where a division would cost.
    return rows & (spread - 1), rows >> (spread.bit_length() - 1)
  return rows % spread, rows // spread


def address_columns(blocks: Sequence[tuple[Address, int]]) -> Address:
  """The address of rows that lie side by side, i32[B, K].

  Args:
    blocks: of one stack, each with its number of columns.
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
  layout: Layout, stack: str, shard: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """What a shard holds: the block of each of its rows, and the table's row.

  Args:
    layout: of all tables.
    stack: whose shard.
    shard: i32[], its number.

  Returns:
    Block numbers as `in_stack` lists them, and rows: i32[P] each. Both are
    PAD where nothing lives.
  """
  _, shards, shard_rows, _ = layout.stacks[stack]
  independent = layout.stacks[stack].kind is Kind.INDEPENDENT
  local = jnp.arange(shard_rows, dtype=jnp.int32)
  number = jnp.full(shard_rows, PAD, jnp.int32)
  row = jnp.full(shard_rows, PAD, jnp.int32)
  for i, (name, block) in enumerate(layout.in_stack(stack)):
    turn = 0 if independent else (shard - block.first) % shards
    r = turn + block.spread * (local - block.offset)
    here = (local >= block.offset) & (r < layout.rows[name])
    here &= turn < block.spread
    number, row = jnp.where(here, i, number), jnp.where(here, r, row)
  return number, row


def to_json(layout: Layout) -> dict[str, Any]:
  """A layout as a checkpoint remembers it."""
  return {
    'shards': layout.shards,
    'rows': dict(layout.rows),
    'stacks': {
      name: {**stack._asdict(), 'kind': stack.kind.value}
      for name, stack in layout.stacks.items()
    },
    'blocks': {
      name: [block._asdict() for block in blocks]
      for name, blocks in layout.blocks.items()
    },
  }


def from_json(saved: Mapping[str, Any]) -> Layout:
  """The layout that a checkpoint remembers."""
  return Layout(
    shards=saved['shards'],
    rows=dict(saved['rows']),
    stacks={
      name: Stack(**stack)._replace(kind=Kind(stack['kind']))
      for name, stack in saved['stacks'].items()
    },
    blocks={
      name: tuple(Address(**block) for block in blocks)
      for name, blocks in saved['blocks'].items()
    },
  )


def _check(table: Table, shards: int) -> None:
  spread, columns = table.placement.spread, table.placement.columns
  if not 0 <= spread <= shards:
    raise InputError(
      f'table {table.name}: dealt over {spread} shards, but there are '
      f'{shards} (config.tables.shards)'
    )
  if columns < 1 or table.dim % columns:
    raise InputError(
      f'table {table.name}: width {table.dim} can not be cut into {columns} '
      f'equal column blocks (config.tables.columns)'
    )


def _kind(table: Table, pooled: bool) -> Kind:
  placement: Placement = table.placement
  if placement.replicated:
    return Kind.REPLICATED
  if placement.independent:
    return Kind.INDEPENDENT
  return Kind.BAGS if pooled else Kind.ROWS


class _Filling:
  """The shards of a stack while tables are laid into them."""

  def __init__(self, kind: Kind, dim: int, shards: int) -> None:
    self.kind, self.dim = kind, dim
    self.shards = 1 if kind is Kind.REPLICATED else shards
    self.rows = [0] * self.shards
    self.reads = [0.0] * self.shards
    self._turn = 0

  def lay(self, rows: int, spread: int, reads: float) -> tuple[int, int, int]:
    """Finds the place of a block: first shard, spread, offset."""
    if self.kind in (Kind.REPLICATED, Kind.INDEPENDENT):
      spread, first = 1, 0
      span = list(range(self.shards))
    else:
      spread = spread or self.shards
      first = self._best_start(rows, spread, reads)
      span = [(first + k) % self.shards for k in range(spread)]
    offset = max(self.rows[k] for k in span)
    for k in span:
      self.rows[k] = offset + -(-rows // spread)
      self.reads[k] += reads / spread
    return first, spread, offset

  def _best_start(self, rows: int, spread: int, reads: float) -> int:
    """Of all rows in turn; else where rows and reads stay least."""
    if spread == self.shards:
      self._turn += 1
      return (self._turn - 1) % self.shards
    all_rows = sum(self.rows) + rows
    all_reads = sum(self.reads) + reads

    def load(first: int) -> tuple[float, int]:
      span = [(first + k) % self.shards for k in range(spread)]
      return (
        max(self.rows[k] for k in span) / max(all_rows, 1)
        + max(self.reads[k] for k in span) / max(all_reads, 1e-9),
        first,
      )

    return min(range(0, self.shards, spread), key=load)


def aligned(rows: int, dim: int) -> int:
  """Rows of a shard: whole tiles of a TPU, and many equal parts.

  Checkpoints are written in parts, whose number must divide the rows.
  """
  unit = max(_TILE * packed(dim), 1 << max(rows // 128, 1).bit_length() - 1)
  return -(-rows // unit) * unit


def plan_layout(
  tables: Iterable[Table], shards: int, hotness: Mapping[str, tuple[int, ...]]
) -> Layout:
  """Lays tables into stacks, the largest first.

  Args:
    tables: with their placements.
    shards: S.
    hotness: of the features that read each table, by its name.

  Raises:
    InputError: a placement is impossible, or a stack has too many rows.

  >>> tables = [Table('a', 3, 8), Table('b', 50, 8)]
  >>> layout = plan_layout(tables, 2, {'a': (1,), 'b': (1,)})
  >>> layout.stacks['rows_8'].rows, layout.blocks['a'][0].offset
  (256, 25)
  """
  tables = tuple(tables)
  fillings: dict[str, _Filling] = {}
  blocks: dict[str, tuple[Address, ...]] = {}
  order = sorted(tables, key=lambda t: (t.placement.spread > 0, -t.rows))
  for table in order:
    _check(table, shards)
    placement, reads = table.placement, hotness[table.name]
    kind = _kind(table, max(reads) > 1)
    dim = table.dim // placement.columns
    name = f'{kind.value}_{dim}'
    filling = fillings.setdefault(name, _Filling(kind, dim, shards))
    blocks[table.name] = tuple(
      Address(
        name,
        *filling.lay(table.rows, placement.spread, sum(reads)),
        column=k * dim,
        dim=dim,
      )
      for k in range(placement.columns)
    )
    rows = filling.shards * max(filling.rows)
    if filling.shards * aligned(max(filling.rows), dim) > MAX_ROWS:
      raise InputError(
        f'table {table.name}: the tables of width {dim} have {rows:,} rows '
        f'together; rows are numbered by int32, at most {MAX_ROWS:,}; hash '
        f'the largest, change their width, or have fewer nodes if each has '
        f'its own (config.tables.shards)'
      )
  return Layout(
    shards=shards,
    stacks={
      name: Stack(
        filling.kind,
        filling.shards,
        aligned(max(filling.rows), filling.dim),
        filling.dim,
      )
      for name, filling in sorted(fillings.items())
    },
    blocks={t.name: blocks[t.name] for t in tables},
    rows={t.name: t.rows for t in tables},
  )
