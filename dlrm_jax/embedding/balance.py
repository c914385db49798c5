"""Costs of tables of bags on each shard, while one table at a time moves.

`load` computes the exact costs of a layout of all tables. To try every
placement of every table with it takes time that grows with the square of the
number of tables. This module keeps sums over shards instead: a table is taken
out of them and placed elsewhere without looking at the others. Each shard
counts as one device.

A layout may leave holes between blocks that are dealt over different numbers
of shards. These sums leave holes out; `load` counts them.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from dlrm_jax.embedding.capacity import Capacity, with_margin
from dlrm_jax.embedding.layout import Layout, Stack, StackKind
from dlrm_jax.embedding.layout_plan import MAX_ROWS, aligned
from dlrm_jax.embedding.load import (
  Workload,
  arriving_bytes,
  copy_bytes,
  exchange_bytes,
  moved_bytes,
  stack_bytes,
)
from dlrm_jax.embedding.storage import Storage
from dlrm_jax.embedding.table import Table


class StackKey(NamedTuple):
  """What distinguishes stacks of bags: width and storages."""

  dim: int
  storage: Storage
  state: Storage


class ShardSpan(NamedTuple):
  """The shards of a column block.

  Attributes:
    stack: the stack of the block.
    first: first shard.
    spread: number of shards.
  """

  stack: StackKey
  first: int
  spread: int


class Totals(NamedTuple):
  """Costs of all tables together.

  Attributes:
    bytes: bytes of a device for tables, copies and arriving rows; infinite
      where a stack has too many rows.
    moved: bytes of rows and their state read and written, f64[S].
    sent: bytes that a device sends.
  """

  bytes: float
  moved: np.ndarray
  sent: float


@dataclasses.dataclass(frozen=True)
class _StackSums:
  """Sums over the blocks of a stack.

  Attributes:
    key: width and storages.
    work: the workload, with as many devices as shards.
    shards: f64[3, S], for each shard: rows held; rows that a device asks of
      it; sums of bags that a device asks of it.
    asked: rows that a device asks of all shards together.
    bags: bags of every example.
  """

  key: StackKey
  work: Workload
  shards: np.ndarray
  asked: int = 0
  bags: int = 0

  @functools.cached_property
  def totals(self) -> Totals:
    """Costs of the stack."""
    work, devices, dim = self.work, self.work.devices, self.key.dim
    if not self.bags:
      return Totals(0.0, np.zeros(devices), 0.0)
    held, asked, bags = self.shards.max(1).tolist()
    rows = aligned(round(held), *self.key)
    stack = Stack(
      StackKind.BAGS,
      devices,
      rows,
      dim,
      self.key.storage,
      state=self.key.state,
    )
    room = Capacity(
      with_margin(asked, self.asked),
      with_margin(bags, min(self.asked, self.bags * work.local_batch)),
    )
    size = stack_bytes(stack, work) + copy_bytes(stack, work)
    size += arriving_bytes(devices * room.rows, dim, work.state)
    return Totals(
      size if stack.rows <= MAX_ROWS else math.inf,
      devices * moved_bytes(stack, work.state) * self.shards[1],
      exchange_bytes(stack, room, devices),
    )


@functools.cache
def _spans(total: int, spread: int) -> np.ndarray:
  """The spans of shards that a block may have, i64[n, spread]."""
  starts = np.arange(0, total, spread)
  return (starts[:, None] + np.arange(spread)) % total


class Balance:
  """Sums over shards of tables of bags; every change returns a new one."""

  def __init__(
    self, work: Workload, stacks: Mapping[StackKey, _StackSums]
  ) -> None:
    """Starts with known sums; `measured` computes those of a layout.

    Args:
      work: the workload, with as many devices as shards.
      stacks: the sums of each stack.
    """
    self._work, self._stacks = work, dict(stacks)

  def _part(self, table: Table, span: ShardSpan) -> np.ndarray:
    """What a block adds to each of its shards, f64[3]."""
    share, examples = 1 / span.spread, self._work.local_batch
    lengths = self._work.hotness[table.name]
    bags = sum(1 - (1 - share) ** length for length in lengths)
    rows = math.ceil(table.rows * share)
    return np.array([rows, examples * sum(lengths) * share, examples * bags])

  def _count(self, table: Table, span: ShardSpan, times: int) -> None:
    """Adds a block to the sums (`times` 1), or subtracts it (-1)."""
    work = self._work
    empty = _StackSums(span.stack, work, np.zeros((3, work.devices)))
    stack = self._stacks.get(span.stack, empty)
    shards, lengths = stack.shards.copy(), work.hotness[table.name]
    part, first = times * self._part(table, span)[:, None], span.first
    shards[:, first : first + span.spread] += part
    shards[:, : max(first + span.spread - work.devices, 0)] += part
    self._stacks[span.stack] = _StackSums(
      span.stack,
      work,
      shards,
      stack.asked + times * work.local_batch * sum(lengths),
      stack.bags + times * len(lengths),
    )

  def without(self, table: Table, spans: Iterable[ShardSpan]) -> 'Balance':
    """The sums without the blocks of a table."""
    rest = Balance(self._work, self._stacks)
    for span in spans:
      rest._count(table, span, -1)
    return rest

  def placed(self, table: Table) -> 'Balance':
    """The sums with a table, placed on the shards with most room."""
    result = Balance(self._work, self._stacks)
    spread = table.placement.spread or self._work.devices
    dim = table.dim // table.placement.columns
    key = StackKey(dim, table.storage, table.state)
    for _ in range(table.placement.columns):
      span = ShardSpan(key, 0, spread)
      span = span._replace(first=result._best_start(table, span))
      result._count(table, span, 1)
    return result

  def _best_start(self, table: Table, span: ShardSpan) -> int:
    """The first shard at which rows and reads remain least, as in layouts."""
    spread, total = span.spread, self._work.devices
    if spread == total or span.stack not in self._stacks:
      return 0
    sums = self._stacks[span.stack].shards[:2]
    all_of = sums.sum(1) + self._part(table, span)[:2] * spread
    fullest = sums[:, _spans(total, spread)].max(2) / all_of[:, None]
    return int(np.argmin(fullest.sum(0))) * spread

  def totals(self) -> Totals:
    """Costs of all tables."""
    of_stacks = [stack.totals for stack in self._stacks.values()]
    return Totals(
      sum(total.bytes for total in of_stacks),
      np.sum([total.moved for total in of_stacks], 0),
      sum(total.sent for total in of_stacks),
    )


def measured(
  layout: Layout, tables: Iterable[Table], work: Workload
) -> tuple[Balance, dict[str, list[ShardSpan]]]:
  """The sums of a layout, and the shards of each table's blocks.

  Args:
    layout: the layout of the tables.
    tables: tables of bags.
    work: the workload, with as many devices as shards.
  """
  balance, spans = Balance(work, {}), {}
  for table in tables:
    spans[table.name] = [
      ShardSpan(StackKey(a.dim, table.storage, table.state), a.first, a.spread)
      for a in layout.blocks[table.name]
    ]
    for span in spans[table.name]:
      balance._count(table, span, 1)
  return balance, spans
