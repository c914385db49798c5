"""What a layout asks of each device: rows held and read, bytes moved and sent.

Counted from shapes, before any id is seen. The exchange has static shapes, so
every device sends the same number of bytes, and a device that has more to do
than the others sets the room of all (`capacity`). Rows held are padded to the
fullest shard. So what a layout costs is its most loaded device.

Bytes sent by a device in a step, n devices, C the room for a pair:

    rows        (n - 1) C.rows (4 + 8 D)              ids, vectors both ways
    bags        (n - 1) (4 C.rows + 8 C.bags D)       ids, sums both ways
    replicated  2 (n - 1) / n R (4 D + 4)             all-reduce, or of each
                (n - 1) b K (4 D + 4)                 gathered row, if fewer
    independent 0

An overflow (ids more skewed than the room) sends more; it is not counted.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from dlrm_jax.embedding.capacity import Capacity, Reader, capacity, shares
from dlrm_jax.embedding.layout import Kind, Layout, Stack
from dlrm_jax.rows import LANES, packed

_FLOAT = 4


class RowState(NamedTuple):
  """Floats that an optimizer keeps: for each element, and for each row."""

  per_element: int = 0
  per_row: int = 0

  def bytes(self, dim: int) -> int:
    """Of a row and its state."""
    return _FLOAT * (dim * (1 + self.per_element) + self.per_row)


class Use(NamedTuple):
  """Who uses a layout: what `load` has to know beside it.

  Attributes:
    hotness: of the features that read each table, by its name.
    batch: examples of a step, of all devices together.
    devices: n; divides the shards.
    state: of the optimizer.
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
  """What each device has and does in a step.

  Attributes:
    rows: held, without padding, i64[n].
    bytes: held by a device, values and optimizer state, with the padding of
      stacks; so known of all tables together, and 0 of one by itself.
    reads: rows read, at most, f64[n].
    moved: bytes of rows and their state read and written, f64[n].
    sent: bytes that a device sends, forward and backward.
  """

  rows: np.ndarray
  bytes: int
  reads: np.ndarray
  moved: np.ndarray
  sent: float


def imbalance(counts: np.ndarray) -> float:
  """Most loaded device / mean; 1 where nothing is to do.

  >>> imbalance(np.array([1, 1, 4]))
  2.0
  """
  mean = float(np.mean(counts))
  return float(np.max(counts)) / mean if mean else 1.0


def readers(layout: Layout, use: Use) -> dict[str, tuple[Reader, ...]]:
  """The bags that every example has in each stack."""
  found: dict[str, list[Reader]] = {stack: [] for stack in layout.stacks}
  for table, blocks in layout.blocks.items():
    for block in blocks:
      for length in use.hotness[table]:
        found[block.stack].append(Reader(table, block, length))
  return {stack: tuple(each) for stack, each in found.items()}


def room(
  layout: Layout, use: Use, of_stack: Iterable[Reader]
) -> Capacity | None:
  """Room for each pair of devices; None for what does not travel."""
  of_stack = tuple(of_stack)
  kind = layout.stacks[of_stack[0].block.stack].kind
  if use.devices == 1 or kind in (Kind.REPLICATED, Kind.INDEPENDENT):
    return None
  return capacity(layout, of_stack, use.local_batch, use.devices)


def sums_all(stack: Stack, of_stack: Iterable[Reader], use: Use) -> bool:
  """Whether the gradient of a replicated stack travels as a whole."""
  gathered = use.local_batch * sum(r.length for r in of_stack)
  return stack.rows <= gathered


def exchanged(stack: Stack, size: Capacity, devices: int) -> float:
  """Bytes that a device sends for a stack of rows or bags."""
  vectors = size.rows if stack.kind is Kind.ROWS else size.bags
  floats = size.rows + 2 * vectors * stack.dim
  return float(_FLOAT * (devices - 1) * floats)


def moved(dim: int, state: RowState) -> int:
  """Bytes moved for a row read: forward; and backward, with its state."""
  return 2 * state.bytes(dim) + _FLOAT * dim


def _sent(
  layout: Layout, use: Use, name: str, of_stack: tuple[Reader, ...]
) -> float:
  """Bytes that a device sends for a stack."""
  stack, n = layout.stacks[name], use.devices
  if n == 1 or stack.kind is Kind.INDEPENDENT:
    return 0.0
  wide = _FLOAT * (stack.dim + 1)
  if stack.kind is Kind.REPLICATED:
    if sums_all(stack, of_stack, use):
      return 2 * (n - 1) / n * stack.rows * wide
    gathered = use.local_batch * sum(r.length for r in of_stack)
    return float((n - 1) * gathered * wide)
  return exchanged(stack, capacity(layout, of_stack, use.local_batch, n), n)


def _shares(layout: Layout, reader: Reader, use: Use) -> np.ndarray:
  """The part of a reader's ids that each device serves, f64[n]."""
  stack, n = layout.stacks[reader.block.stack], use.devices
  if stack.kind in (Kind.REPLICATED, Kind.INDEPENDENT):
    return np.full(n, 1 / n)
  return shares(layout, reader.block, n)


def _reads(layout: Layout, use: Use, reader: Reader) -> np.ndarray:
  """Rows that each device reads for a bag of every example, f64[n].

  Where distinct rows travel, nobody is asked for more than it has.
  """
  shares = _shares(layout, reader, use)
  asked = use.local_batch * reader.length * shares
  if layout.stacks[reader.block.stack].kind is Kind.ROWS and use.devices > 1:
    asked = np.minimum(asked, np.ceil(layout.rows[reader.table] * shares))
  return use.devices * asked


def _held(layout: Layout, table: str, use: Use) -> np.ndarray:
  """Rows of a table that each device holds, i64[n]."""
  total = np.zeros(use.devices, np.int64)
  for block in layout.blocks[table]:
    stack = layout.stacks[block.stack]
    if stack.kind is Kind.REPLICATED:
      total += layout.rows[table]
      continue
    each = layout.held(table, block, np.arange(stack.shards))
    total += each.reshape(use.devices, -1).sum(1)
  return total


def local_rows(stack: Stack, use: Use) -> int:
  """Rows of a device's part of a stack."""
  parts = 1 if stack.kind is Kind.REPLICATED else use.devices
  return stack.rows // parts


def stack_bytes(stack: Stack, use: Use) -> int:
  """Bytes of a device's part of a stack: values, padding and state."""
  return local_rows(stack, use) * use.state.bytes(stack.dim)


def load_by_table(layout: Layout, use: Use) -> dict[str, Load]:
  """The load of each table; bytes sent are a share of its stacks' bytes."""
  result = {}
  for table in layout.blocks:
    held, none = _held(layout, table, use), np.zeros(use.devices)
    result[table] = Load(held, 0, reads=none, moved=none, sent=0.0)
  for name, of_stack in readers(layout, use).items():
    stack = layout.stacks[name]
    reads = [_reads(layout, use, reader) for reader in of_stack]
    sent = _sent(layout, use, name, of_stack)
    total = sum(r.sum() for r in reads) or 1.0
    row_moved = moved(stack.dim, use.state)
    for reader, each in zip(of_stack, reads, strict=True):
      old = result[reader.table]
      result[reader.table] = old._replace(
        reads=old.reads + each,
        moved=old.moved + each * row_moved,
        sent=old.sent + sent * each.sum() / total,
      )
  return result


def load(layout: Layout, use: Use) -> Load:
  """The load of all tables together, with the padding of their stacks."""
  tables = load_by_table(layout, use).values()
  return Load(
    rows=np.sum([t.rows for t in tables], 0),
    bytes=sum(stack_bytes(stack, use) for stack in layout.stacks.values()),
    reads=np.sum([t.reads for t in tables], 0),
    moved=np.sum([t.moved for t in tables], 0),
    sent=float(sum(t.sent for t in tables)),
  )


def copy_bytes(stack: Stack, use: Use) -> int:
  """Bytes of copies of a stack whose rows do not fill the lanes of a TPU.

  Rows of 128 numbers, of a multiple or of a divisor (packed) are read and
  written where they are. A stack of any other width is laid out anew in every
  step, with each row padded to whole lanes.
  """
  if stack.dim % LANES == 0 or packed(stack.dim) > 1:
    return 0
  padded = -(-stack.dim // LANES) * LANES
  arrays = 1 + use.state.per_element
  return local_rows(stack, use) * padded * _FLOAT * arrays


def copies_memory(layout: Layout, use: Use) -> int:
  """The `copy_bytes` of all stacks."""
  return sum(copy_bytes(stack, use) for stack in layout.stacks.values())


def arriving_bytes(rows: int, dim: int, state: RowState) -> int:
  """Bytes of rows on their way, and of their update.

  At its peak a step of a TPU was seen to hold four arrays f32[M, D] for the M
  rows that arrive, and one more for each that the optimizer keeps; of packed
  rows one array of the lines that they are in.
  """
  arrays = 4 + state.per_element
  return rows * _FLOAT * (LANES if packed(dim) > 1 else dim * arrays)


def exchange_memory(layout: Layout, use: Use) -> int:
  """The `arriving_bytes` of all stacks."""
  size = 0
  for name, of_stack in readers(layout, use).items():
    room_for = room(layout, use, of_stack)
    gathered = use.local_batch * sum(r.length for r in of_stack)
    rows = gathered if room_for is None else use.devices * room_for.rows
    size += arriving_bytes(rows, layout.stacks[name].dim, use.state)
  return size
