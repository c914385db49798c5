"""Chooses where tables live: `placement='auto'`.

A table with no more rows than a device reads ids of it is cheaper copied: to
sum its gradient over all devices moves no more bytes than to exchange its
rows. Of features with one id an example, distinct rows travel, and dealing
rows over all shards in turn balances rows, reads and bytes whatever the ids.
Bags of several ids travel as sums: the fewer shards have rows of a bag, the
fewer sums; but one shard must not have to hold or read too much. There the
choice is by cost, the most expensive table first:

    cost = bytes sent / link + bytes of rows moved / memory bandwidth

of the most loaded device, among the placements that leave room. The result is
a function of tables, batch, shards and memory: each shard is taken for a
device, whatever devices there are.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dlrm_jax.embedding.layout import plan_layout
from dlrm_jax.embedding.load import Load, RowState, Use, load
from dlrm_jax.embedding.table import Placement, Table

# Bytes a second of a device's links and of its memory, about those of a TPU
# v5e; only their ratio matters.
_LINK, _MEMORY = 50e9, 800e9
_COPIES = 1 / 32  # of the memory, at most, for replicated tables
_NARROWEST = 32  # columns of a block, at least


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
    memory: bytes of a device for tables, their optimizer state included.
    state: of the optimizer.
  """

  shards: int
  batch: int
  memory: int
  state: RowState


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
) -> dict[str, Chosen]:
  """Tables so small that every device has a copy, the smallest first."""
  chosen: dict[str, Chosen] = {}
  left = budget.memory * _COPIES
  examples = budget.batch / budget.shards
  for table in sorted(tables, key=lambda t: (t.rows * t.dim, t.name)):
    # 8 R D bytes to sum a gradient, or for an example 8 D of sums, 8 L of ids.
    ids = examples * (len(hotness[table.name]) + _ids_cost(table, hotness))
    left -= table.rows * budget.state.bytes(table.dim)
    if table.rows > ids or left < 0:
      break
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
  while columns[-1] < shards and table.dim % (columns[-1] * 2 * _NARROWEST) == 0:
    columns.append(columns[-1] * 2)
  found = [
    Placement(spread, c)
    for c in columns
    for spread in spreads
    if spread * c <= shards
  ]
  return [*found, Placement()]


class _Trial:
  """Loads of tables placed so far, each shard a device."""

  def __init__(
    self, hotness: Mapping[str, tuple[int, ...]], budget: Budget
  ) -> None:
    self._budget, self._hotness = budget, hotness

  def load(self, tables: Iterable[Table]) -> Load:
    """Of these tables alone."""
    b = self._budget
    layout = plan_layout(tables, b.shards, self._hotness)
    return load(layout, Use(self._hotness, b.batch, b.shards, b.state))

  def cost(self, tables: list[Table]) -> tuple[bool, float]:
    """Whether it is too large, and seconds of the most loaded device."""
    found = self.load(tables)
    seconds = found.sent / _LINK + found.moved.max() / _MEMORY
    return found.bytes > self._budget.memory, seconds


def _why(best: Placement, shards: int) -> str:
  if best.columns > 1:
    return 'whole bags travel, in columns: a device could not do the table'
  if best.spread == 1:
    return 'whole bags travel'
  if best.spread:
    return f'few sums of a bag, read on {best.spread} devices'
  return 'dealt to all: bags too large for fewer devices'


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
    By table, in their order. Where even the best does not fit, it is the one
    that needs least; `load` tells.

  >>> tables = [Table('city', 50, 16), Table('user', 9000, 16)]
  >>> hot = {'city': (1,), 'user': (1,)}
  >>> budget = Budget(8, 1024, 10**9, RowState())
  >>> choices = choose(tables, hot, {}, budget)
  >>> [placement_name(c.placement, 8) for c in choices.values()]
  ['replicated', 'row_wise']
  """
  tables = tuple(tables)
  chosen = {name: Chosen(p, 'given') for name, p in fixed.items()}
  free = [t for t in tables if t.name not in chosen]
  if budget.shards == 1:
    chosen |= {t.name: Chosen(Placement(), 'one shard') for t in free}
    return {t.name: chosen[t.name] for t in tables}
  chosen |= _copied(free, hotness, budget)
  free = [t for t in free if t.name not in chosen]
  for table in free:
    if max(hotness[table.name]) == 1:
      chosen[table.name] = Chosen(
        Placement(), 'one id an example: distinct rows travel'
      )
  chosen |= _bags([t for t in tables if t.name not in chosen], tables, hotness, chosen, budget)
  return {t.name: chosen[t.name] for t in tables}


def _bags(
  free: list[Table],
  tables: tuple[Table, ...],
  hotness: Mapping[str, tuple[int, ...]],
  chosen: Mapping[str, Chosen],
  budget: Budget,
) -> dict[str, Chosen]:
  """Placements of tables of bags, the most expensive table first."""
  placed = [
    dataclasses.replace(t, placement=chosen[t.name].placement)
    for t in tables
    if t.name in chosen
  ]
  trial = _Trial(hotness, budget)
  by_cost = sorted(
    free, key=lambda t: (-sum(hotness[t.name]) * t.dim, -t.rows, t.name)
  )
  result = {}
  for table in by_cost:
    trials = [
      dataclasses.replace(table, placement=p)
      for p in _candidates(table, budget.shards)
    ]
    best = min(trials, key=lambda t: trial.cost([*placed, t]))
    placed.append(best)
    result[table.name] = Chosen(best.placement, _why(best.placement))
  if free and trial.cost(placed)[0]:
    return {t.name: Chosen(Placement(), 'dealt to all: memory') for t in free}
  return result
