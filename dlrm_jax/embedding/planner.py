"""Chooses where tables live: `placement='auto'`.

A table with no more rows than a device reads ids of it is cheaper copied: to
sum its gradient over all devices moves no more bytes than to exchange its
rows. Of features with one id an example, distinct rows travel, and dealing
rows over all shards in turn balances rows, reads and bytes whatever the ids.
Bags of several ids travel as sums: the fewer shards have rows of a bag, the
fewer sums; but one shard must not have to hold or read too much. There the
choice is by cost, the most expensive table first, in a few sweeps:

    cost = bytes sent / link + bytes of rows moved / memory bandwidth

of the most loaded device, among the placements that leave room. Where the
cheapest placements leave none, those that need less are taken: no copies, or
every row dealt. The result is
a function of tables, batch, shards and memory: each shard is taken for a
device, whatever devices there are.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from dlrm_jax.embedding.balance import Balance, measured
from dlrm_jax.embedding.layout import plan_layout
from dlrm_jax.embedding.load import (
  Load,
  RowState,
  Use,
  copies_memory,
  exchange_memory,
  load,
)
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.errors import InputError

# Bytes a second of a device's links and of its memory, about those of a TPU
# v5e; only their ratio matters.
_LINK, _MEMORY = 50e9, 800e9
_COPIES = 1 / 32  # of the memory, at most, for replicated tables
# Tables of bags are moved in so many groups; the layout judges each.
_GROUPS = 32
_NARROWEST = 128  # columns of a block, at least: the lanes of a TPU
# Kept for what is not planned here, program and parameters of the layers:
# bytes, and a part of the memory; the more.
_SPARE, _SPARE_PART = 64 * 10**6, 1 / 32


class Chosen(NamedTuple):
  """A placement and why, in a few words."""

  placement: Placement
  why: str


@dataclasses.dataclass(frozen=True)
class Budget:
  """What the planner plans for.

  Attributes:
    shards: S.
    batch: examples of a step, of all devices together.
    memory: bytes of a device for tables, their optimizer state, rows on
      their way, and parameters of layers.
    state: of the optimizer.
  """

  shards: int
  batch: int
  memory: int
  state: RowState

  @property
  def room(self) -> float:
    """Bytes of a device for tables and their rows on their way."""
    return self.memory - max(_SPARE, self.memory * _SPARE_PART)


def placement_name(placement: Placement, shards: int) -> str:
  """The word of the config for a placement, with its numbers.

  >>> placement_name(Placement(spread=2, columns=4), 8)
  'grid 2x4'
  """
  if placement.replicated or placement.independent:
    return 'replicated' if placement.replicated else 'independent'
  spread = placement.spread or shards
  if placement.columns > 1:
    return (
      f'column_wise {placement.columns}'
      if spread == 1
      else f'grid {spread}x{placement.columns}'
    )
  if spread == shards:
    return 'row_wise'
  return 'table_wise' if spread == 1 else f'table_row_wise {spread}'


def _copied(
  tables: Iterable[Table],
  hotness: Mapping[str, tuple[int, ...]],
  budget: Budget,
  copies: float,
) -> dict[str, Chosen]:
  """Tables so small that every device has a copy, the smallest first.

  Args:
    tables: to choose from.
    hotness: of the features that read each table.
    budget: what to plan for.
    copies: part of the memory that they may take.
  """
  chosen: dict[str, Chosen] = {}
  left = budget.memory * copies
  examples = budget.batch / budget.shards
  for table in sorted(tables, key=lambda t: (t.rows * t.dim, t.name)):
    # 8 R D bytes to sum a gradient, or for an example 8 D of sums, 8 L of ids.
    ids = examples * (len(hotness[table.name]) + _ids_cost(table, hotness))
    size = table.rows * budget.state.bytes(table.dim)
    if table.rows > ids or size > left:
      continue
    left -= size
    chosen[table.name] = Chosen(
      Placement(replicated=True),
      f'{table.rows:,} rows: copies cost no more than an exchange',
    )
  return chosen


def _ids_cost(table: Table, hotness: Mapping[str, tuple[int, ...]]) -> float:
  return sum(hotness[table.name]) / table.dim


def _candidates(table: Table, shards: int) -> list[Placement]:
  """Where bags can live, the simplest first."""
  spreads = [1]
  while spreads[-1] * 2 < shards:
    spreads.append(spreads[-1] * 2)
  columns = [1]
  while (
    columns[-1] < shards and table.dim % (columns[-1] * 2 * _NARROWEST) == 0
  ):
    columns.append(columns[-1] * 2)
  found = [
    Placement(spread, c)
    for c in columns
    for spread in spreads
    if spread * c <= shards
  ]
  return [*found, Placement()]


def _why(placement: Placement, shards: int) -> str:
  devices = (placement.spread or shards) * placement.columns
  if devices == 1:
    return 'bags are summed where all their rows are'
  if devices == shards:
    return 'bags: all devices share rows and reads'
  return f'bags: few sums each; {devices} devices share rows and reads'


def _load(
  tables: Iterable[Table],
  hotness: Mapping[str, tuple[int, ...]],
  budget: Budget,
) -> tuple[Load, int]:
  """Of some tables, and all the bytes that they need."""
  read = {t.name: hotness[t.name] for t in tables}
  layout = plan_layout(tables, budget.shards, read)
  use = Use(read, budget.batch, budget.shards, budget.state)
  found = load(layout, use)
  moving = copies_memory(layout, use) + exchange_memory(layout, use)
  return found, found.bytes + moving


class _Cost(NamedTuple):
  """Of a choice of placements; of two, the smaller is better.

  Attributes:
    excess: bytes of a device that do not fit.
    seconds: of the most loaded device.
  """

  excess: float
  seconds: float


class _Costs:
  """What a choice of placements costs, each shard taken for a device."""

  def __init__(
    self,
    tables: Iterable[Table],
    hotness: Mapping[str, tuple[int, ...]],
    budget: Budget,
  ) -> None:
    """Adds up what stays as it is.

    Args:
      tables: in other stacks than those to choose for.
      hotness: of the features that read each table.
      budget: what to plan for.
    """
    self._hotness, self._budget = hotness, budget
    self._rest = _load(tables, hotness, budget)

  def exact(self, tables: Iterable[Table]) -> tuple[_Cost, float]:
    """The cost of tables as they are laid, and all their bytes."""
    try:
      found, size = _load(tables, self._hotness, self._budget)
    except InputError:  # a stack of too many rows
      return _Cost(math.inf, math.inf), math.inf
    return self.of(size, found.sent, found.moved), size

  def of(self, size: float, sent: float, moved: np.ndarray) -> _Cost:
    """The cost of so many bytes held, sent and moved by each device."""
    rest, rest_size = self._rest
    seconds = (sent + rest.sent) / _LINK
    seconds += float((moved + rest.moved).max()) / _MEMORY
    return _Cost(max(size + rest_size - self._budget.room, 0), seconds)


def _place(table: Table, placement: Placement) -> Table:
  return dataclasses.replace(table, placement=placement)


def _starts(
  tables: list[Table], hotness: Mapping[str, tuple[int, ...]], shards: int
) -> list[dict[str, Table]]:
  """Placements to begin with, from few shards a table to all of them.

  A table is dealt over a power of two of shards that grows with its part of
  all reads and of all bytes, so that no shard has too much of one table.
  """
  reads = {t.name: sum(hotness[t.name]) * t.dim for t in tables}
  sizes = {t.name: t.rows * t.dim for t in tables}
  all_reads, all_sizes = sum(reads.values()), sum(sizes.values())
  starts, finer = [], 1
  while finer <= shards:
    start = {}
    for t in tables:
      part = max(reads[t.name] / all_reads, sizes[t.name] / all_sizes)
      spread = 2 ** math.ceil(math.log2(max(part * shards * finer, 1)))
      start[t.name] = _place(t, Placement(spread if spread < shards else 0))
    starts.append(start)
    finer *= 2
  starts.append({t.name: _place(t, Placement()) for t in tables})
  return starts


class _Way(NamedTuple):
  """All tables of bags with their placements.

  Attributes:
    cost: as they are laid.
    size: all their bytes.
    tables: by name.
  """

  cost: _Cost
  size: float
  tables: dict[str, Table]


def _moved(
  way: _Way, group: Iterable[Table], use: Use, costs: _Costs
) -> dict[str, Table]:
  """All tables; those of a group each in its turn where sums cost least."""
  found = dict(way.tables)
  layout = plan_layout(found.values(), use.devices, use.hotness)
  balance, blocks = measured(layout, found.values(), use)
  holes = way.size - balance.totals().bytes

  def cost(laid: tuple[Table, Balance]) -> _Cost:
    total = laid[1].totals()
    return costs.of(total.bytes + holes, total.sent, total.moved)

  for table in group:
    rest = balance.lifted(table, blocks[table.name])
    ways = [_place(table, p) for p in _candidates(table, use.devices)]
    found[table.name], balance = min(
      ((way, rest.laid(way)) for way in ways), key=cost
    )
  return found


def _choose_for_bags(
  free: list[Table],
  placed: list[Table],
  hotness: Mapping[str, tuple[int, ...]],
  budget: Budget,
) -> dict[str, Chosen]:
  """The best start, made better table by table, the most expensive first."""

  def reads(table: Table) -> tuple[int, int, str]:
    return -sum(hotness[table.name]) * table.dim, -table.rows, table.name

  def pooled(table: Table) -> bool:
    stays = table.placement.replicated or table.placement.independent
    return max(hotness[table.name]) > 1 and not stays

  if not free:
    return {}
  costs = _Costs([t for t in placed if not pooled(t)], hotness, budget)
  given = {t.name: t for t in placed if pooled(t)}
  order = sorted(free, key=reads)
  use = Use(hotness, budget.batch, budget.shards, budget.state)

  def judged(tables: dict[str, Table]) -> _Way:
    # By names, so that sums do not depend on the order of the tables.
    tables = dict(sorted(tables.items()))
    return _Way(*costs.exact(tables.values()), tables)

  def best(ways: Iterable[dict[str, Table]]) -> _Way:
    return min(map(judged, ways), key=lambda way: way.cost)

  starts = _starts(free, hotness, budget.shards)
  way = best(given | start for start in starts)
  size = -(-len(order) // _GROUPS)
  for group in (order[i : i + size] for i in range(0, len(order), size)):
    if size == 1:
      places = [_place(group[0], p) for p in _candidates(group[0], use.devices)]
      way = best(way.tables | {t.name: t} for t in places)
    elif way.size < math.inf:
      way = best([way.tables, _moved(way, group, use, costs)])
  chosen = {t.name: way.tables[t.name].placement for t in free}
  return {k: Chosen(p, _why(p, budget.shards)) for k, p in chosen.items()}


def _choose(
  tables: tuple[Table, ...],
  hotness: Mapping[str, tuple[int, ...]],
  fixed: Mapping[str, Chosen],
  budget: Budget,
  copies: float,
) -> dict[str, Chosen]:
  """The cheapest placements, with so much of the memory for copies."""
  chosen = dict(fixed)

  def free() -> list[Table]:
    return [t for t in tables if t.name not in chosen]

  chosen |= _copied(free(), hotness, budget, copies)
  chosen |= {
    t.name: Chosen(Placement(), 'one id an example: distinct rows travel')
    for t in free()
    if max(hotness[t.name]) == 1
  }
  placed = [
    _place(t, chosen[t.name].placement) for t in tables if t.name in chosen
  ]
  return chosen | _choose_for_bags(free(), placed, hotness, budget)


def _leanest(
  tables: tuple[Table, ...],
  hotness: Mapping[str, tuple[int, ...]],
  ways: Iterable[dict[str, Chosen]],
  budget: Budget,
) -> dict[str, Chosen]:
  """The first way that leaves room, else the one that needs least."""
  sizes = []
  for chosen in ways:
    placed = [_place(t, chosen[t.name].placement) for t in tables]
    try:
      size = _load(placed, hotness, budget)[1]
    except InputError:  # a stack of too many rows
      size = math.inf
    if size <= budget.room:
      return chosen
    sizes.append((size, len(sizes), chosen))
  return min(sizes, key=lambda found: found[:2])[2]


def choose(
  tables: Iterable[Table],
  hotness: Mapping[str, tuple[int, ...]],
  fixed: Mapping[str, Placement],
  budget: Budget,
) -> dict[str, Chosen]:
  """A placement for every table.

  Args:
    tables: their own placements are not looked at.
    hotness: of the features that read each table, by its name.
    fixed: placements that are given, by table.
    budget: what to plan for.

  Returns:
    By table, in their order. Where nothing fits, what needs least; `load`
    tells.

  >>> tables = [Table('city', 50, 16), Table('user', 9000, 16)]
  >>> hot = {'city': (1,), 'user': (1,)}
  >>> budget = Budget(8, 1024, 10**9, RowState())
  >>> choices = choose(tables, hot, {}, budget)
  >>> [placement_name(c.placement, 8) for c in choices.values()]
  ['replicated', 'row_wise']
  """
  tables = tuple(tables)
  given = {name: Chosen(p, 'given') for name, p in fixed.items()}
  free = [t.name for t in tables if t.name not in fixed]
  if budget.shards == 1:
    alone = dict.fromkeys(free, Chosen(Placement(), 'one shard'))
    return {t.name: (given | alone)[t.name] for t in tables}
  dealt = dict.fromkeys(free, Chosen(Placement(), 'to save memory'))

  def ways() -> Iterator[dict[str, Chosen]]:
    for copies in (_COPIES, 0):
      yield _choose(tables, hotness, given, budget, copies)
    yield given | dealt

  chosen = _leanest(tables, hotness, ways(), budget)
  return {t.name: chosen[t.name] for t in tables}
