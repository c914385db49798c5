"""Costs of a layout on each device: rows held and read, bytes moved and sent.

They are computed from shapes, before any id is seen. The exchange has static
shapes, so every device sends the same number of bytes, and the device that
has most to send decides the slots of all (`capacity`). Each device holds as
many rows as the fullest shard needs. So the cost of a layout is that of its
most loaded device.

Bytes that a device sends in a step; n devices, C slots for a pair, E bytes of
a row as its storage keeps it:

    rows        (n - 1) C.rows (4 + E + 4 D)          ids, rows, gradients
    bags        (n - 1) (4 C.rows + 8 C.bags D)       ids, sums both ways
    replicated  2 (n - 1) / n R (4 D + 4)             all-reduce; or for each
                (n - 1) b K (4 D + 4)                 gathered row, if fewer
    independent 0

An overflow (ids more skewed than the slots allow) sends more; these numbers
leave it out.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from dlrm_jax.embedding.capacity import BagSpec, Capacity, capacity, shares
from dlrm_jax.embedding.layout import Layout, Stack, StackKind
from dlrm_jax.embedding.table import Table
from dlrm_jax.rows import LANES, packed

_FLOAT = 4  # bytes of an id, or of an element of a vector


class RowState(NamedTuple):
  """Size of the optimizer state of a row, in numbers.

  Attributes:
    per_element: numbers for each element of the row.
    per_row: numbers for the row as a whole.
  """

  per_element: int = 0
  per_row: int = 0

  def bytes(self, of: Table | Stack) -> int:
    """Bytes of a row of a table or stack, and of its state."""
    numbers = of.dim * self.per_element + self.per_row
    return of.storage.row_bytes(of.dim) + numbers * of.state.row_bytes(1)


class Workload(NamedTuple):
  """Inputs of the cost model besides the layout.

  Attributes:
    hotness: lengths of the bags that read each table, by its name.
    batch: examples of a step, on all devices together.
    devices: number of devices, n; it divides the shards.
    state: size of the optimizer state of a row.
  """

  hotness: Mapping[str, tuple[int, ...]]
  batch: int
  devices: int
  state: RowState

  @property
  def local_batch(self) -> int:
    """Examples of a device."""
    return -(-self.batch // self.devices)


class Load(NamedTuple):
  """Costs of a layout on each device in a step.

  Attributes:
    rows: rows held, without padding, i64[n].
    bytes: bytes that a device holds for values, optimizer state and padding:
      the total over all tables; 0 in per-table loads.
    reads: largest number of rows read, f64[n].
    moved: bytes of rows and their state read and written, f64[n].
    sent: bytes that a device sends, forward and backward.
  """

  rows: np.ndarray
  bytes: int
  reads: np.ndarray
  moved: np.ndarray
  sent: float


def imbalance(counts: np.ndarray) -> float:
  """Load of the most loaded device / mean load; 1 where all loads are 0.

  >>> imbalance(np.array([1, 1, 4]))
  2.0
  """
  mean = float(np.mean(counts))
  return float(np.max(counts)) / mean if mean else 1.0


def bag_specs(layout: Layout, work: Workload) -> dict[str, tuple[BagSpec, ...]]:
  """The bags that every example reads from each stack."""
  by_stack: dict[str, list[BagSpec]] = {stack: [] for stack in layout.stacks}
  for table, blocks in layout.blocks.items():
    for block in blocks:
      for length in work.hotness[table]:
        by_stack[block.stack].append(BagSpec(table, block, length))
  return {stack: tuple(specs) for stack, specs in by_stack.items()}


def stack_capacity(
  layout: Layout, work: Workload, bags: Iterable[BagSpec]
) -> Capacity | None:
  """Slots for each pair of devices; None for a stack that does not travel."""
  bags = tuple(bags)
  kind = layout.stacks[bags[0].block.stack].kind
  stays = StackKind.REPLICATED, StackKind.INDEPENDENT
  if work.devices == 1 or kind in stays:
    return None
  return capacity(layout, bags, work.local_batch, work.devices)


def sums_all(stack: Stack, bags: Iterable[BagSpec], work: Workload) -> bool:
  """Whether the gradient of a replicated stack travels as a whole."""
  gathered = work.local_batch * sum(bag.length for bag in bags)
  return stack.dense or stack.rows <= gathered


def exchange_bytes(stack: Stack, room: Capacity, devices: int) -> float:
  """Bytes that a device sends for a stack of rows or bags."""
  vector = _FLOAT * stack.dim
  if stack.kind is StackKind.ROWS:
    row = stack.storage.row_bytes(stack.dim)
    size = room.rows * (_FLOAT + row + vector)
  else:
    size = room.rows * _FLOAT + room.bags * 2 * vector
  return float((devices - 1) * size)


def moved_bytes(stack: Stack, state: RowState) -> int:
  """Bytes of memory that a step reads and writes for each row that it looks up.

  The row forward; the row and its optimizer state, twice each, backward.
  """
  row = stack.storage.row_bytes(stack.dim)
  return 2 * state.bytes(stack) + row


def _sent(
  layout: Layout, work: Workload, name: str, bags: tuple[BagSpec, ...]
) -> float:
  """Bytes that a device sends for a stack."""
  stack, n = layout.stacks[name], work.devices
  if n == 1 or stack.kind is StackKind.INDEPENDENT:
    return 0.0
  row = _FLOAT * (stack.dim + 1)  # a gradient, and its row or count
  if stack.kind is StackKind.REPLICATED:
    if sums_all(stack, bags, work):
      return 2 * (n - 1) / n * stack.rows * row
    gathered = work.local_batch * sum(bag.length for bag in bags)
    return float((n - 1) * gathered * row)
  room = capacity(layout, bags, work.local_batch, n)
  return exchange_bytes(stack, room, n)


def _shares(layout: Layout, bag: BagSpec, work: Workload) -> np.ndarray:
  """Fraction of a bag's rows that each device reads, f64[n]."""
  stack, n = layout.stacks[bag.block.stack], work.devices
  if stack.kind in (StackKind.REPLICATED, StackKind.INDEPENDENT):
    return np.full(n, 1 / n)
  return shares(layout, bag.block, n)


def _reads(layout: Layout, work: Workload, bag: BagSpec) -> np.ndarray:
  """Largest number of rows that each device reads for a bag, f64[n].

  Where distinct rows travel, no device is asked for more rows than it has.
  """
  part = _shares(layout, bag, work)
  asked = work.local_batch * bag.length * part
  kind = layout.stacks[bag.block.stack].kind
  if kind is StackKind.ROWS and work.devices > 1:
    asked = np.minimum(asked, np.ceil(layout.rows[bag.table] * part))
  return work.devices * asked


def _held(layout: Layout, table: str, work: Workload) -> np.ndarray:
  """Rows of a table that each device holds, i64[n]."""
  total = np.zeros(work.devices, np.int64)
  for block in layout.blocks[table]:
    stack = layout.stacks[block.stack]
    if stack.kind is StackKind.REPLICATED:
      total += layout.rows[table]
      continue
    of_shards = layout.held(table, block, np.arange(stack.shards))
    total += of_shards.reshape(work.devices, -1).sum(1)
  return total


def device_rows(stack: Stack, work: Workload) -> int:
  """Rows of a device's part of a stack."""
  parts = 1 if stack.kind is StackKind.REPLICATED else work.devices
  return stack.rows // parts


def stack_bytes(stack: Stack, work: Workload) -> int:
  """Bytes of a device's part of a stack: values, padding and state."""
  return device_rows(stack, work) * work.state.bytes(stack)


def load_by_table(layout: Layout, work: Workload) -> dict[str, Load]:
  """The load of each table; bytes sent are a share of its stacks' bytes."""
  result = {}
  for table in layout.blocks:
    held, zero = _held(layout, table, work), np.zeros(work.devices)
    result[table] = Load(held, 0, reads=zero, moved=zero, sent=0.0)
  for name, bags in bag_specs(layout, work).items():
    stack = layout.stacks[name]
    reads = [_reads(layout, work, bag) for bag in bags]
    sent = _sent(layout, work, name, bags)
    total = sum(r.sum() for r in reads) or 1.0
    row_moved = moved_bytes(stack, work.state)
    for bag, of_bag in zip(bags, reads, strict=True):
      old = result[bag.table]
      result[bag.table] = old._replace(
        reads=old.reads + of_bag,
        moved=old.moved + of_bag * row_moved,
        sent=old.sent + sent * of_bag.sum() / total,
      )
  return result


def layout_load(layout: Layout, work: Workload) -> Load:
  """The load of all tables together, with the padding of their stacks."""
  tables = load_by_table(layout, work).values()
  return Load(
    rows=np.sum([t.rows for t in tables], 0),
    bytes=sum(stack_bytes(stack, work) for stack in layout.stacks.values()),
    reads=np.sum([t.reads for t in tables], 0),
    moved=np.sum([t.moved for t in tables], 0),
    sent=float(sum(t.sent for t in tables)),
  )


def copy_bytes(stack: Stack, work: Workload) -> int:
  """Bytes of copies of a stack whose rows do not fill the lanes of a TPU.

  Rows whose width is 128, a multiple of it or a divisor of it (packed) are
  read and written in place. A TPU copies an array of any other width in every
  step, with each row padded to whole lanes.
  """
  padded = -(-stack.dim // LANES) * LANES
  state = stack.state.row_bytes(padded) * work.state.per_element
  row = sum(
    -(-leaf.size // LANES) * LANES * leaf.dtype.itemsize
    for leaf in stack.storage.arrays(stack.dim)
    if _copied(leaf.size)
  )
  if _copied(stack.dim):
    row += state
  return device_rows(stack, work) * row


def _copied(width: int) -> bool:
  return width % LANES != 0 and packed(width) == 1


def copies_memory(layout: Layout, work: Workload) -> int:
  """The `copy_bytes` of all stacks."""
  return sum(copy_bytes(stack, work) for stack in layout.stacks.values())


def arriving_bytes(rows: int, dim: int, state: RowState) -> int:
  """Bytes of rows that arrive on a device, and of their update.

  Measured on a TPU: at its peak a step holds four arrays f32[M, D] for the M
  rows that arrive, and one more for each that the optimizer keeps; for packed
  rows it holds one array of whole packed rows.
  """
  arrays = 4 + state.per_element
  return rows * _FLOAT * (LANES if packed(dim) > 1 else dim * arrays)


def exchange_memory(layout: Layout, work: Workload) -> int:
  """The `arriving_bytes` of all stacks."""
  size = 0
  for name, bags in bag_specs(layout, work).items():
    room = stack_capacity(layout, work, bags)
    gathered = work.local_batch * sum(bag.length for bag in bags)
    rows = gathered if room is None else work.devices * room.rows
    if layout.stacks[name].dense:
      rows += layout.stacks[name].rows
    size += arriving_bytes(rows, layout.stacks[name].dim, work.state)
  return size
