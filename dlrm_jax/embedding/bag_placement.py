"""Placements of tables of bags, by cost: part of `placement='auto'`.

The search starts from the cheapest of a few simple placements and then moves
tables one at a time, those with most reads first, to where the cost is least:

    cost = bytes sent / link + bytes of rows moved / memory bandwidth

of the most loaded device. A placement that does not fit into the memory costs
more than any that does. Each shard counts as one device.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from dlrm_jax.embedding.balance import Balance, measured
from dlrm_jax.embedding.layout_plan import plan_layout
from dlrm_jax.embedding.load import (
  Load,
  RowState,
  Workload,
  copies_memory,
  exchange_memory,
  layout_load,
)
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.errors import InputError

# Bytes a second of a device's links and of its memory, about those of a TPU
# v5e; only their ratio matters.
_LINK, _MEMORY = 50e9, 800e9
# Tables of bags are moved in so many groups; `plan_layout` judges each.
_GROUPS = 32
_NARROWEST = 128  # least columns of a block: the lanes of a TPU
# Bytes kept for the program and the layers' parameters, which are not planned
# here, and the same as a fraction of the memory; the larger counts.
_SPARE, _SPARE_PART = 64 * 10**6, 1 / 32


class Chosen(NamedTuple):
  """A placement, and the reason for it in a few words."""

  placement: Placement
  why: str


@dataclasses.dataclass(frozen=True)
class PlacementBudget:
  """What the placements of tables may use.

  Attributes:
    shards: number of logical shards, S.
    batch: examples of a step, on all devices together.
    memory: bytes of a device for tables, their optimizer state, arriving rows
      and parameters of layers.
    state: size of the optimizer state of a row.
  """

  shards: int
  batch: int
  memory: int
  state: RowState

  @property
  def room(self) -> float:
    """Bytes of a device for tables and arriving rows."""
    return self.memory - max(_SPARE, self.memory * _SPARE_PART)

  def work(self, hotness: Mapping[str, tuple[int, ...]]) -> Workload:
    """The workload, with as many devices as shards."""
    return Workload(hotness, self.batch, self.shards, self.state)


def with_placement(table: Table, placement: Placement) -> Table:
  """The table with another placement."""
  return dataclasses.replace(table, placement=placement)


def load_and_bytes(
  tables: Iterable[Table],
  hotness: Mapping[str, tuple[int, ...]],
  budget: PlacementBudget,
) -> tuple[Load, int]:
  """The load of some tables, and all the bytes that they need."""
  of_tables = {t.name: hotness[t.name] for t in tables}
  layout = plan_layout(tables, budget.shards, of_tables)
  work = budget.work(of_tables)
  load = layout_load(layout, work)
  moving = copies_memory(layout, work) + exchange_memory(layout, work)
  return load, load.bytes + moving


def _candidates(table: Table, shards: int) -> list[Placement]:
  """Possible placements of a table of bags, the simplest first."""
  spreads = [1]
  while spreads[-1] * 2 < shards:
    spreads.append(spreads[-1] * 2)
  columns = [1]
  while (
    columns[-1] < shards and table.dim % (columns[-1] * 2 * _NARROWEST) == 0
  ):
    columns.append(columns[-1] * 2)
  candidates = [
    Placement(spread, c)
    for c in columns
    for spread in spreads
    if spread * c <= shards
  ]
  return [*candidates, Placement()]


def _why(placement: Placement, shards: int) -> str:
  devices = (placement.spread or shards) * placement.columns
  if devices == 1:
    return 'bags are summed where all their rows are'
  if devices == shards:
    return 'bags: all devices share rows and reads'
  return f'bags: few sums each; {devices} devices share rows and reads'


class _Cost(NamedTuple):
  """Cost of a choice of placements; of two, the smaller is better.

  Attributes:
    excess: bytes of a device that do not fit.
    seconds: time of the most loaded device.
  """

  excess: float
  seconds: float


class _Costs:
  """Costs of placements of some tables beside others that stay in place."""

  def __init__(
    self,
    tables: Iterable[Table],
    hotness: Mapping[str, tuple[int, ...]],
    budget: PlacementBudget,
  ) -> None:
    """Computes the load of the tables that stay in place.

    Args:
      tables: tables that share no stack with those to place.
      hotness: lengths of the bags that read each table.
      budget: memory, batch and shards.
    """
    self._hotness, self._budget = hotness, budget
    self._rest = load_and_bytes(tables, hotness, budget)

  def exact(self, tables: Iterable[Table]) -> tuple[_Cost, float]:
    """The cost of tables in their layout, and all their bytes."""
    try:
      load, size = load_and_bytes(tables, self._hotness, self._budget)
    except InputError:  # a stack of too many rows
      return _Cost(math.inf, math.inf), math.inf
    return self.of(size, load.sent, load.moved), size

  def of(self, size: float, sent: float, moved: np.ndarray) -> _Cost:
    """The cost of bytes held, sent and moved by each device."""
    rest, rest_size = self._rest
    seconds = (sent + rest.sent) / _LINK
    seconds += float((moved + rest.moved).max()) / _MEMORY
    return _Cost(max(size + rest_size - self._budget.room, 0), seconds)


def _starts(
  tables: list[Table], hotness: Mapping[str, tuple[int, ...]], shards: int
) -> list[dict[str, Table]]:
  """Placements to begin with, from few shards for each table to all shards.

  A table is dealt over a power of two of shards that grows with its fraction
  of all reads and of all bytes, so that no shard has too much of one table.
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
      start[t.name] = with_placement(
        t, Placement(spread if spread < shards else 0)
      )
    starts.append(start)
    finer *= 2
  starts.append({t.name: with_placement(t, Placement()) for t in tables})
  return starts


class _Choice(NamedTuple):
  """All tables of bags with their placements.

  Attributes:
    cost: cost of their layout.
    size: bytes that they need.
    tables: tables by name.
  """

  cost: _Cost
  size: float
  tables: dict[str, Table]


def _moved(
  choice: _Choice, group: Iterable[Table], work: Workload, costs: _Costs
) -> dict[str, Table]:
  """All tables, after each of a group moved to where the sums cost least."""
  tables = dict(choice.tables)
  layout = plan_layout(tables.values(), work.devices, work.hotness)
  balance, spans = measured(layout, tables.values(), work)
  holes = choice.size - balance.totals().bytes

  def cost(candidate: tuple[Table, Balance]) -> _Cost:
    total = candidate[1].totals()
    return costs.of(total.bytes + holes, total.sent, total.moved)

  for table in group:
    rest = balance.without(table, spans[table.name])
    placed = [
      with_placement(table, p) for p in _candidates(table, work.devices)
    ]
    tables[table.name], balance = min(
      ((candidate, rest.placed(candidate)) for candidate in placed), key=cost
    )
  return tables


def choose_for_bags(
  free: list[Table],
  placed: list[Table],
  hotness: Mapping[str, tuple[int, ...]],
  budget: PlacementBudget,
) -> dict[str, Chosen]:
  """Placements of tables of bags.

  Args:
    free: tables of bags to place.
    placed: all other tables, with their placements.
    hotness: lengths of the bags that read each table.
    budget: memory, batch and shards.
  """

  def reads(table: Table) -> tuple[int, int, str]:
    return -sum(hotness[table.name]) * table.dim, -table.rows, table.name

  def pooled(table: Table) -> bool:
    stays = table.placement.replicated or table.placement.independent
    return max(hotness[table.name]) > 1 and not stays

  if not free:
    return {}
  costs = _Costs([t for t in placed if not pooled(t)], hotness, budget)
  fixed = {t.name: t for t in placed if pooled(t)}
  order = sorted(free, key=reads)
  work = budget.work(hotness)

  def judged(tables: dict[str, Table]) -> _Choice:
    # By names, so that sums do not depend on the order of the tables.
    tables = dict(sorted(tables.items()))
    return _Choice(*costs.exact(tables.values()), tables)

  def best(choices: Iterable[dict[str, Table]]) -> _Choice:
    return min(map(judged, choices), key=lambda choice: choice.cost)

  starts = _starts(free, hotness, budget.shards)
  choice = best(fixed | start for start in starts)
  size = -(-len(order) // _GROUPS)
  for group in (order[i : i + size] for i in range(0, len(order), size)):
    if size == 1:
      table = group[0]
      moved = [
        with_placement(table, p) for p in _candidates(table, work.devices)
      ]
      choice = best(choice.tables | {t.name: t} for t in moved)
    elif choice.size < math.inf:
      choice = best([choice.tables, _moved(choice, group, work, costs)])
  placements = {t.name: choice.tables[t.name].placement for t in free}
  return {k: Chosen(p, _why(p, budget.shards)) for k, p in placements.items()}
