"""Chooses where tables live: `placement='auto'`.

* A table with no more rows than a device reads ids of it is replicated: to
  sum its gradient over all devices moves no more bytes than to exchange rows.
* Of other tables with one id an example, distinct rows travel. Their rows are
  dealt over all shards in turn, which balances rows, reads and bytes, whatever
  the ids.
* Bags of several ids travel as sums: the fewer shards have rows of a bag, the
  fewer sums; but one shard must not hold or read too much. `bag_placement`
  weighs both by cost.

Where the cheapest placements do not fit, cheaper ones in memory are taken: no
copies, or every row dealt. The result is a function of tables, batch, shards
and memory, whatever devices there are: each shard counts as one device.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

from dlrm_jax.embedding.bag_placement import (
  Chosen,
  PlacementBudget,
  choose_for_bags,
  load_and_bytes,
  with_placement,
)
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.errors import InputError

_COPIES = 1 / 32  # largest fraction of the memory for replicated tables


def placement_name(placement: Placement, shards: int) -> str:
  """A placement as the config names it, with its numbers.

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
  budget: PlacementBudget,
  copies: float,
) -> dict[str, Chosen]:
  """The tables to replicate, the smallest first.

  Args:
    tables: tables to choose from.
    hotness: lengths of the bags that read each table.
    budget: memory, batch and shards.
    copies: fraction of the memory for replicated tables.
  """
  chosen: dict[str, Chosen] = {}
  left = budget.memory * copies
  examples = budget.batch / budget.shards
  for table in sorted(tables, key=lambda t: (t.rows * t.dim, t.name)):
    # 8 R D bytes to sum a gradient; or for an example 8 D of sums, 8 L of ids.
    ids = examples * (len(hotness[table.name]) + _ids_cost(table, hotness))
    size = table.rows * budget.state.bytes(table)
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


def _choose(
  tables: tuple[Table, ...],
  hotness: Mapping[str, tuple[int, ...]],
  fixed: Mapping[str, Chosen],
  budget: PlacementBudget,
  copies: float,
) -> dict[str, Chosen]:
  """The cheapest placements, with a fraction of the memory for copies."""
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
    with_placement(t, chosen[t.name].placement)
    for t in tables
    if t.name in chosen
  ]
  return chosen | choose_for_bags(free(), placed, hotness, budget)


def _leanest(
  tables: tuple[Table, ...],
  hotness: Mapping[str, tuple[int, ...]],
  choices: Iterable[dict[str, Chosen]],
  budget: PlacementBudget,
) -> dict[str, Chosen]:
  """The first choice that fits into the memory, else the smallest one."""
  sizes = []
  for chosen in choices:
    placed = [with_placement(t, chosen[t.name].placement) for t in tables]
    try:
      size = load_and_bytes(placed, hotness, budget)[1]
    except InputError:  # a stack of too many rows
      size = math.inf
    if size <= budget.room:
      return chosen
    sizes.append((size, len(sizes), chosen))
  return min(sizes, key=lambda entry: entry[:2])[2]


def choose(
  tables: Iterable[Table],
  hotness: Mapping[str, tuple[int, ...]],
  fixed: Mapping[str, Placement],
  budget: PlacementBudget,
) -> dict[str, Chosen]:
  """A placement for every table.

  Args:
    tables: tables, whose own placements are ignored.
    hotness: lengths of the bags that read each table, by its name.
    fixed: placements that the config sets, by table.
    budget: memory, batch and shards.

  Returns:
    Placements by table, in the order of the tables. Where nothing fits, the
    smallest; `layout_load` computes its bytes.

  >>> tables = [Table('city', 50, 16), Table('user', 9000, 16)]
  >>> hot = {'city': (1,), 'user': (1,)}
  >>> from dlrm_jax.embedding.load import RowState
  >>> budget = PlacementBudget(8, 1024, 10**9, RowState())
  >>> choices = choose(tables, hot, {}, budget)
  >>> [placement_name(c.placement, 8) for c in choices.values()]
  ['replicated', 'row_wise']
  """
  tables = tuple(tables)
  of_config = {name: Chosen(p, 'given') for name, p in fixed.items()}
  free = [t.name for t in tables if t.name not in fixed]
  if budget.shards == 1:
    alone = dict.fromkeys(free, Chosen(Placement(), 'one shard'))
    return {t.name: (of_config | alone)[t.name] for t in tables}
  dealt = dict.fromkeys(free, Chosen(Placement(), 'to save memory'))

  def choices() -> Iterator[dict[str, Chosen]]:
    for copies in (_COPIES, 0):
      yield _choose(tables, hotness, of_config, budget, copies)
    yield of_config | dealt

  chosen = _leanest(tables, hotness, choices(), budget)
  return {t.name: chosen[t.name] for t in tables}
