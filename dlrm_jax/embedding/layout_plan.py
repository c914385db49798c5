"""Planning of layouts: puts the column blocks of tables into stacks."""

from collections.abc import Iterable, Mapping

from dlrm_jax.embedding.layout import Address, Layout, Stack, StackKind
from dlrm_jax.embedding.low_precision import STATES
from dlrm_jax.embedding.storage import FLOAT32, Storage
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.errors import InputError

MAX_ROWS = 2**31 - 1
"""Largest number of rows of a stack: rows are numbered by int32."""


def _check(table: Table, shards: int) -> None:
  spread, columns = table.placement.spread, table.placement.columns
  if not 0 <= spread <= shards:
    raise InputError(
      f'table {table.name}: dealt over {spread} shards, but there are '
      f'{shards} (config.tables.shards)'
    )
  if columns < 1 or table.dim % columns:
    raise InputError(
      f'table {table.name}: width {table.dim} cannot be cut into {columns} '
      f'equal column blocks (config.tables.columns)'
    )
  try:
    table.storage.leaves(table.dim // columns)
  except InputError as error:
    raise InputError(f'table {table.name}: {error}') from None
  if table.state not in STATES.values():
    raise InputError(
      f"table {table.name}: its optimizer's state is kept as "
      f'{table.state.name}; expected one of {", ".join(STATES)}'
    )
  if table.placement.dense and not table.placement.replicated:
    raise InputError(
      f'table {table.name}: a dense update needs a copy on every device'
    )


def _kind(table: Table, pooled: bool) -> StackKind:
  placement: Placement = table.placement
  if placement.replicated:
    return StackKind.REPLICATED
  if placement.independent:
    return StackKind.INDEPENDENT
  return StackKind.BAGS if pooled else StackKind.ROWS


def _stack_name(table: Table, kind: StackKind, dim: int) -> str:
  # Checkpoints older than storages have names without one.
  suffix = '' if table.storage == FLOAT32 else f'_{table.storage.name}'
  state = '' if table.state == FLOAT32 else f'_state_{table.state.name}'
  dense = '_dense' if table.placement.dense else ''
  return f'{kind.value}_{dim}{suffix}{state}{dense}'


class _Filling:
  """The shards of a stack while column blocks are put into them."""

  def __init__(
    self, table: Table, kind: StackKind, dim: int, shards: int
  ) -> None:
    self.kind, self.dim = kind, dim
    self.storage, self.state = table.storage, table.state
    self.dense = table.placement.dense
    self.shards = 1 if kind is StackKind.REPLICATED else shards
    self.rows = [0] * self.shards
    self.reads = [0.0] * self.shards
    self._turn = 0

  @property
  def stack(self) -> Stack:
    """The stack of all blocks so far."""
    rows = aligned(max(self.rows), self.dim, self.storage, self.state)
    return Stack(
      self.kind,
      self.shards,
      rows,
      self.dim,
      self.storage,
      self.dense,
      self.state,
    )

  def add(self, rows: int, spread: int, reads: float) -> tuple[int, int, int]:
    """Adds a block; returns its first shard, spread and offset."""
    if self.kind in (StackKind.REPLICATED, StackKind.INDEPENDENT):
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
    """The first shard of a block.

    Blocks over all shards begin at each shard in turn; others begin where the
    fullest shard's rows and reads remain least.
    """
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


def aligned(
  rows: int, dim: int, storage: Storage = FLOAT32, state: Storage = FLOAT32
) -> int:
  """Rows of a shard, rounded up to whole tiles of a TPU and to many divisors.

  Checkpoints are written in equal pieces, whose number must divide the rows.
  """
  unit = max(
    storage.row_unit(dim),
    state.row_unit(dim),
    1 << max(rows // 128, 1).bit_length() - 1,
  )
  return -(-rows // unit) * unit


def plan_layout(
  tables: Iterable[Table], shards: int, hotness: Mapping[str, tuple[int, ...]]
) -> Layout:
  """Puts tables into stacks, those dealt over all shards first, by size.

  Args:
    tables: tables with their placements.
    shards: number of logical shards, S.
    hotness: lengths of the bags that read each table, by its name.

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
    name = _stack_name(table, kind, dim)
    filling = fillings.setdefault(name, _Filling(table, kind, dim, shards))
    blocks[table.name] = tuple(
      Address(
        name,
        *filling.add(table.rows, placement.spread, sum(reads)),
        column=k * dim,
        dim=dim,
      )
      for k in range(placement.columns)
    )
    if filling.stack.rows > MAX_ROWS:
      rows = filling.shards * max(filling.rows)
      raise InputError(
        f'table {table.name}: the tables of width {dim} have {rows:,} rows '
        f'together; rows are numbered by int32, at most {MAX_ROWS:,}; hash '
        f'the largest, change their width, or have fewer nodes if each has '
        f'its own (config.tables.shards)'
      )
  return Layout(
    shards=shards,
    stacks={name: fillings[name].stack for name in sorted(fillings)},
    blocks={t.name: blocks[t.name] for t in tables},
    rows={t.name: t.rows for t in tables},
  )
