"""How much one device sends to another in the first round of an exchange.

Shapes are static, so the room for each pair of devices is chosen before any
id is seen: what ids that are spread evenly need, and a margin. Distinct rows
travel, so a table never needs more room than it has rows. What does not fit
travels in further rounds; nothing is dropped.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from dlrm_jax.embedding.layout import Address, Kind, Layout

_MARGIN = 1.125


class Reader(NamedTuple):
  """A bag of `length` rows that every example has in a block of a table."""

  table: str
  block: Address
  length: int


class Capacity(NamedTuple):
  """Room for each pair of devices: rows, and bags that they are summed to."""

  rows: int
  bags: int


def _room(expected: float, most: int) -> int:
  spread = 4 * math.sqrt(expected)  # of random ids around the mean
  rounded = -(-math.ceil(_MARGIN * expected + spread + 8) // 8) * 8
  return min(rounded, -(-most // 8) * 8)


def share(layout: Layout, block: Address, device: int, devices: int) -> float:
  """Part of a block's rows that a device has."""
  stack = layout.stacks[block.stack]
  each = stack.shards // devices
  shards = range(device * each, (device + 1) * each)
  inside = sum((s - block.first) % stack.shards < block.spread for s in shards)
  return inside / block.spread


def capacity(
  layout: Layout, readers: Iterable[Reader], batch: int, devices: int
) -> Capacity:
  """Room for a stack.

  Args:
    layout: of all tables.
    readers: of this stack.
    batch: examples of a device.
    devices: that the stack is cut over.
  """
  readers = tuple(readers)
  kind = layout.stacks[readers[0].block.stack].kind
  rows = [0.0] * devices
  bags = [0.0] * devices
  for device in range(devices):
    by_block: dict[tuple[str, Address], float] = {}
    for table, block, length in readers:
      part = share(layout, block, device, devices)
      key = (table, block)
      by_block[key] = by_block.get(key, 0.0) + batch * length * part
      bags[device] += batch * (1 - (1 - part) ** length)
    for (table, block), reads in by_block.items():
      held = layout.rows[table] * share(layout, block, device, devices)
      distinct = math.ceil(held) + 1 if kind is Kind.ROWS else math.inf
      rows[device] += min(reads, distinct)
  all_rows = batch * sum(length for _, _, length in readers)
  return Capacity(
    rows=_room(max(rows), all_rows),
    bags=_room(max(bags), min(all_rows, batch * len(readers))),
  )
