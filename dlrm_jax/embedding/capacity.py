"""How much one device sends to another in the first round of an exchange.

Shapes are static, so the slots for each pair of devices are chosen before any
id is seen: as many as evenly spread ids need, and a margin. Where distinct
rows travel, a table never needs more slots than it has rows. What does not
fit travels in further rounds; nothing is dropped.
"""

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dlrm_jax.embedding.layout import Address, Layout, StackKind

_MARGIN = 1.125


class BagSpec(NamedTuple):
  """A bag of rows that every example reads from a column block of a table.

  Attributes:
    table: name of the table.
    block: address of the column block.
    length: number of rows of the bag.
  """

  table: str
  block: Address
  length: int


class Capacity(NamedTuple):
  """Slots for each pair of devices.

  Attributes:
    rows: number of rows.
    bags: number of bags that these rows are summed to.
  """

  rows: int
  bags: int


def with_margin(expected: float, most: int) -> int:
  """Slots for an expected number of random rows or bags, at most `most`."""
  spread = 4 * math.sqrt(expected)  # four standard deviations
  rounded = -(-math.ceil(_MARGIN * expected + spread + 8) // 8) * 8
  return min(rounded, -(-most // 8) * 8)


def shares(layout: Layout, block: Address, devices: int) -> np.ndarray:
  """Fraction of a block's rows that each device has, f64[n]."""
  total = layout.stacks[block.stack].shards
  return _shares(total, block.first, block.spread, devices)


@functools.cache
def _shares(total: int, first: int, spread: int, devices: int) -> np.ndarray:
  has_rows = (np.arange(total) - first) % total < spread
  fractions = has_rows.reshape(devices, -1).sum(1) / spread
  fractions.flags.writeable = False  # the cache shares it
  return fractions


def capacity(
  layout: Layout, bag_specs: Iterable[BagSpec], batch: int, devices: int
) -> Capacity:
  """Slots for the exchange of a stack.

  Args:
    layout: the layout of all tables.
    bag_specs: the bags of this stack.
    batch: examples of a device.
    devices: number of devices over which the stack is cut.
  """
  bag_specs = tuple(bag_specs)
  kind = layout.stacks[bag_specs[0].block.stack].kind
  rows = np.zeros(devices)
  bags = np.zeros(devices)
  lengths: dict[tuple[str, Address], int] = {}
  for table, block, length in bag_specs:
    lengths[table, block] = lengths.get((table, block), 0) + length
    bags += batch * (1 - (1 - shares(layout, block, devices)) ** length)
  for (table, block), length in lengths.items():
    part = shares(layout, block, devices)
    reads = batch * length * part
    if kind is StackKind.ROWS:  # distinct ones travel
      reads = np.minimum(reads, np.ceil(layout.rows[table] * part) + 1)
    rows += reads
  all_rows = batch * sum(length for _, _, length in bag_specs)
  return Capacity(
    rows=with_margin(rows.max(), all_rows),
    bags=with_margin(bags.max(), min(all_rows, batch * len(bag_specs))),
  )
