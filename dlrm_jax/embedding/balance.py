"""What shards hold, read and send for bags, while one table at a time moves.

`load` tells it exactly, of a layout of all tables. To try every placement of
every table that way takes time with the square of the tables. Here are sums
over shards instead: a table is lifted out of them and laid elsewhere without
looking at the others. Each shard is taken for a device.

A layout may leave holes between blocks that are dealt over different numbers
of shards. These sums do not see holes; whoever needs the bytes of a layout to
the last row asks `load`.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from dlrm_jax.embedding.capacity import Capacity, with_margin
from dlrm_jax.embedding.layout import MAX_ROWS, Kind, Layout, Stack, aligned
from dlrm_jax.embedding.load import (
  Use,
  arriving_bytes,
  copy_bytes,
  exchanged,
  moved,
  stack_bytes,
)
from dlrm_jax.embedding.table import Table


class Block(NamedTuple):
  """Where a column block of a table is: a stack, by width, and its shards."""

  dim: int
  first: int
  spread: int


class Totals(NamedTuple):
  """What tables need.

  Attributes:
    bytes: of a device: tables, copies, rows on their way; infinite where a
      stack has too many rows.
    moved: bytes of rows and their state read and written, f64[S].
    sent: bytes that a device sends.
  """

  bytes: float
  moved: np.ndarray
  sent: float


@dataclasses.dataclass(frozen=True)
class _Stack:
  """Sums of a stack.

  Attributes:
    dim: its width.
    use: with as many devices as shards.
    shards: f64[3, S], of each shard: rows held; of a device's examples, rows
      asked of it; sums of bags asked of it.
    asked: rows that a device asks for, of all shards together.
    bags: that every example has.
  """

  dim: int
  use: Use
  shards: np.ndarray
  asked: int = 0
  bags: int = 0

  @functools.cached_property
  def totals(self) -> Totals:
    """What its tables need."""
    use, devices = self.use, self.use.devices
    if not self.bags:
      return Totals(0.0, np.zeros(devices), 0.0)
    held, asked, bags = self.shards.max(1).tolist()
    rows = aligned(round(held), self.dim)
    stack = Stack(Kind.BAGS, devices, rows, self.dim)
    room = Capacity(
      with_margin(asked, self.asked),
      with_margin(bags, min(self.asked, self.bags * use.local_batch)),
    )
    size = stack_bytes(stack, use) + copy_bytes(stack, use)
    size += arriving_bytes(devices * room.rows, self.dim, use.state)
    return Totals(
      size if stack.rows <= MAX_ROWS else math.inf,
      devices * moved(self.dim, use.state) * self.shards[1],
      exchanged(stack, room, devices),
    )


@functools.cache
def _spans(total: int, spread: int) -> np.ndarray:
  """The shards that a block may have, i64[n, spread]."""
  starts = np.arange(0, total, spread)
  return (starts[:, None] + np.arange(spread)) % total


class Balance:
  """Tables of bags laid over shards; changing it gives another one."""

  def __init__(self, use: Use, stacks: Mapping[int, _Stack]) -> None:
    """Takes sums as they are; begin with `measured`.

    Args:
      use: with as many devices as shards.
      stacks: by width.
    """
    self._use, self._stacks = use, dict(stacks)

  def _part(self, table: Table, block: Block) -> np.ndarray:
    """What a block adds to each of its shards, f64[3]."""
    share, examples = 1 / block.spread, self._use.local_batch
    lengths = self._use.hotness[table.name]
    bags = sum(1 - (1 - share) ** length for length in lengths)
    rows = math.ceil(table.rows * share)
    return np.array([rows, examples * sum(lengths) * share, examples * bags])

  def _put(self, table: Table, block: Block, times: int) -> None:
    """Adds a block, or takes it away: `times` is 1 or -1."""
    use = self._use
    empty = _Stack(block.dim, use, np.zeros((3, use.devices)))
    stack = self._stacks.get(block.dim, empty)
    shards, lengths = stack.shards.copy(), use.hotness[table.name]
    part, first = times * self._part(table, block)[:, None], block.first
    shards[:, first : first + block.spread] += part
    shards[:, : max(first + block.spread - use.devices, 0)] += part
    self._stacks[block.dim] = _Stack(
      block.dim,
      use,
      shards,
      stack.asked + times * use.local_batch * sum(lengths),
      stack.bags + times * len(lengths),
    )

  def lifted(self, table: Table, blocks: Iterable[Block]) -> 'Balance':
    """Without the blocks of a table."""
    left = Balance(self._use, self._stacks)
    for block in blocks:
      left._put(table, block, -1)
    return left

  def laid(self, table: Table) -> 'Balance':
    """With a table as its placement says, on the shards with most room."""
    found = Balance(self._use, self._stacks)
    spread = table.placement.spread or self._use.devices
    for _ in range(table.placement.columns):
      block = Block(table.dim // table.placement.columns, 0, spread)
      block = block._replace(first=found._best_start(table, block))
      found._put(table, block, 1)
    return found

  def _best_start(self, table: Table, block: Block) -> int:
    """The first shard with which rows and reads stay least, as in `layout`."""
    spread, total = block.spread, self._use.devices
    if spread == total or block.dim not in self._stacks:
      return 0
    sums = self._stacks[block.dim].shards[:2]
    all_of = sums.sum(1) + self._part(table, block)[:2] * spread
    fullest = sums[:, _spans(total, spread)].max(2) / all_of[:, None]
    return int(np.argmin(fullest.sum(0))) * spread

  def totals(self) -> Totals:
    """What all tables need."""
    each = [stack.totals for stack in self._stacks.values()]
    return Totals(
      sum(total.bytes for total in each),
      np.sum([total.moved for total in each], 0),
      sum(total.sent for total in each),
    )


def measured(
  layout: Layout, tables: Iterable[Table], use: Use
) -> tuple[Balance, dict[str, list[Block]]]:
  """The sums of a layout, and where each of its tables is.

  Args:
    layout: of the tables.
    tables: of bags only.
    use: with as many devices as shards.
  """
  balance, blocks = Balance(use, {}), {}
  for table in tables:
    blocks[table.name] = [
      Block(a.dim, a.first, a.spread) for a in layout.blocks[table.name]
    ]
    for block in blocks[table.name]:
      balance._put(table, block, 1)
  return balance, blocks
