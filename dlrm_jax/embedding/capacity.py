"""How much one device sends to another in the first round of an exchange.

Shapes are static, so the room for each pair of devices is chosen before any
id is seen: what ids that are spread evenly need, and a margin. Distinct rows
travel, so a table never needs more room than it has rows. What does not fit
travels in further rounds; nothing is dropped.
"""

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

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


def with_margin(expected: float, most: int) -> int:
  """Room for so many things, which are as many as `most` at the utmost."""
  spread = 4 * math.sqrt(expected)  # of random ids around the mean
  rounded = -(-math.ceil(_MARGIN * expected + spread + 8) // 8) * 8
  return min(rounded, -(-most // 8) * 8)


def shares(layout: Layout, block: Address, devices: int) -> np.ndarray:
  """Part of a block's rows that each device has, f64[n]."""
  total = layout.stacks[block.stack].shards
  return _shares(total, block.first, block.spread, devices)


@functools.cache
def _shares(total: int, first: int, spread: int, devices: int) -> np.ndarray:
  there = (np.arange(total) - first) % total < spread
  found = there.reshape(devices, -1).sum(1) / spread
  found.flags.writeable = False
  return found


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
  rows = np.zeros(devices)
  bags = np.zeros(devices)
  lengths: dict[tuple[str, Address], int] = {}
  for table, block, length in readers:
    lengths[table, block] = lengths.get((table, block), 0) + length
    bags += batch * (1 - (1 - shares(layout, block, devices)) ** length)
  for (table, block), length in lengths.items():
    part = shares(layout, block, devices)
    reads = batch * length * part
    if kind is Kind.ROWS:  # distinct ones travel
      reads = np.minimum(reads, np.ceil(layout.rows[table] * part) + 1)
    rows += reads
  all_rows = batch * sum(length for _, _, length in readers)
  return Capacity(
    rows=with_margin(rows.max(), all_rows),
    bags=with_margin(bags.max(), min(all_rows, batch * len(readers))),
  )
