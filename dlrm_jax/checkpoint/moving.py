"""Rows from one layout to another, a piece at a time.

The address of a row is arithmetic (`Layout.locate`), so a move needs neither a
converter nor a whole table in memory. The rows of a block that one old shard
holds lie one after the other: they are read in pieces of bounded size, their
addresses in the new layout are computed, and a process keeps those that land
on its devices. It does not read pieces of which no row lands there. So a
process holds its own part of one new stack, and a piece.

What moves is a *family*: for each stack the arrays of its storage, or one
array of the optimizer's state, which has a storage, too. Rows move as their
storage keeps them. Where the storage or the column blocks of a table change, or
its copies are averaged, rows are decoded and encoded again, rounded to nearest.
Of one number a row, such as the mean squares of row-wise Adagrad, a new block
gets the mean of the old blocks, weighted by the columns that they share.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dlrm_jax.checkpoint.local_rows import (
  LocalRows,
  decoded,
  local_range,
  local_rows,
  side_by_side,
)
from dlrm_jax.embedding.layout import Address, Layout, Stack, StackKind
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.errors import InputError
from dlrm_jax.rows import Pytree

_PIECE = 8 * 2**20  # bytes


class _Stretch(NamedTuple):
  """Rows of a block that lie side by side in an old stack.

  Attributes:
    table: name of the table.
    source: the old block.
    targets: the new blocks that share columns with it.
    first: the first row of the table.
    count: number of rows; consecutive ones differ by `source.spread`.
    starts: address of the first row in each copy to average.
    node: number of the copy; None: the mean of all of `starts`.
  """

  table: str
  source: Address
  targets: tuple[Address, ...]
  first: int
  count: int
  starts: tuple[int, ...]
  node: int | None

  @property
  def rows(self) -> np.ndarray:
    """Rows of the table, i64[count]."""
    return self.first + self.source.spread * np.arange(self.count)


def _overlap(old: Address, new: Address) -> bool:
  return old.column < new.column + new.dim and new.column < old.column + old.dim


def _cut(
  old: Layout, stretch: _Stretch, apart: bool, most: int
) -> Iterator[_Stretch]:
  """Stretches of at most `most` rows.

  Args:
    old: the old layout.
    stretch: source and targets.
    apart: whether copies of an independent table stay apart.
    most: largest number of rows of a stretch.
  """
  block = stretch.source
  stack = old.stacks[block.stack]
  independent = stack.kind is StackKind.INDEPENDENT
  starts = [s * stack.shard_rows + block.offset for s in range(stack.shards)]
  shards: list[tuple[int, tuple[int, ...], int | None]]
  if independent and not apart:
    shards = [(0, tuple(starts), None)]
  else:
    shards = [
      (shard, (start,), shard if independent else None)
      for shard, start in enumerate(starts)
    ]
  for shard, firsts, node in shards:
    turn = 0 if independent else (shard - block.first) % stack.shards
    held = old.held(stretch.table, block, shard)
    for a in range(0, held, most):
      yield stretch._replace(
        first=turn + block.spread * a,
        count=min(most, held - a),
        starts=tuple(start + a for start in firsts),
        node=node,
      )


def _stretches(
  old: Layout, new: Layout, stack: str, piece: int
) -> Iterator[_Stretch]:
  """All rows of a new stack, in stretches of at most `piece` bytes."""
  wanted: dict[str, list[Address]] = {}
  for table, block in new.in_stack(stack):
    wanted.setdefault(table, []).append(block)
  for table, blocks in wanted.items():
    for source in old.blocks[table]:
      targets = tuple(block for block in blocks if _overlap(source, block))
      if targets:
        then, now = old.stacks[source.stack], new.stacks[stack]
        apart = then.kind is now.kind and then.shards == now.shards
        stretch = _Stretch(table, source, targets, 0, 0, (), None)
        most = max(1, piece // then.storage.row_bytes(source.dim))
        yield from _cut(old, stretch, apart, most)


def _slice(array: Any, width: int, start: int, count: int) -> np.ndarray:
  """Some rows of a stack's array, [count, width] or [count]."""
  k = side_by_side(array.shape, width)
  low, high = start // k, -(-(start + count) // k)
  values = np.asarray(array[low:high])
  rows = values.reshape(len(values) * k, -1) if values.ndim == 2 else values
  return rows[start - low * k :][:count]


def _read(tree: Pytree, stack: Stack, stretch: _Stretch) -> list[Pytree]:
  """The rows of a stretch as their storage keeps them, for each copy."""
  leaves = stack.storage.leaves(stack.dim)
  return [
    jax.tree.map(
      lambda leaf, x, start=start: _slice(x, leaf.size, start, stretch.count),
      leaves,
      tree,
    )
    for start in stretch.starts
  ]


def _values(copies: list[Pytree], stack: Stack) -> np.ndarray:
  """Values [n, D] of rows, or their numbers [n]; the mean of copies."""
  values = [decoded(x, stack) for x in copies]
  if len(values) == 1:
    return values[0]
  total = np.zeros(values[0].shape)
  for x in values:
    total += x
  return total / len(values)


def _check_kept(
  values: np.ndarray, kept: np.ndarray, stretch: _Stretch, stack: Stack
) -> None:
  """Raises an InputError where a storage cannot keep rows.

  Args:
    values: of the rows of a stretch, [n, D].
    kept: which of them a new stack keeps as finite numbers, bool[n].
    stretch: the rows.
    stack: the new stack.
  """
  if stack.storage == FLOAT32:
    return
  advice = 'keep the table as float32, or train anew'
  fits = np.abs(values) <= stack.storage.most  # NaN does not
  if len(bad := np.argwhere(~fits)):
    row, column = bad[0]
    if not np.isfinite(values[row, column]):
      advice = 'choose another checkpoint'
    what = (
      f'column {stretch.source.column + column} is {values[row, column]:g}, '
      f'for which {stack.storage.name} has no number'
    )
  elif len(bad := np.flatnonzero(~kept)):
    row = bad[0]
    what = (
      f'values from {values[row].min():g} to {values[row].max():g}, which '
      f'{stack.storage.name} cannot keep in finite numbers'
    )
  else:
    return
  raise InputError(
    f'table {stretch.table}, row {stretch.rows[row]:,}: {what}; {advice}'
  )


def _addresses(
  layout: Layout, block: Address, stretch: _Stretch
) -> Iterator[np.ndarray]:
  """Rows of the new stack for those of a stretch, i64[n] for each copy."""
  stack = layout.stacks[block.stack]
  if stack.kind is not StackKind.INDEPENDENT:
    yield layout.locate(block, stretch.rows)
    return
  nodes = range(stack.shards) if stretch.node is None else (stretch.node,)
  for node in nodes:
    yield layout.locate(block, stretch.rows, node)


def _carry(
  tree: Pytree, old: Stack, stretch: _Stretch, new: Layout, mine: LocalRows
) -> None:
  """Reads a stretch and places it, if any row belongs to this process."""
  places = [
    (target, rows)
    for target in stretch.targets
    for rows in _addresses(new, target, stretch)
    if mine.has(rows).any()
  ]
  if not places:
    return
  source, copies = stretch.source, _read(tree, old, stretch)
  for target, rows in places:
    same = (source.column, source.dim) == (target.column, target.dim)
    if same and old.storage == mine.stack.storage and len(copies) == 1:
      mine.put(rows, copies[0])
      continue
    values = _values(copies, old)
    begin = max(source.column, target.column)
    end = min(source.column + source.dim, target.column + target.dim)
    if values.ndim == 1:
      mine.add_numbers(rows, values, (end - begin) / target.dim)
    else:
      shared = values[:, begin - source.column : end - source.column]
      columns = slice(begin - target.column, end - target.column)
      kept = mine.put_columns(rows, shared, columns)
      _check_kept(values, kept, stretch, mine.stack)


def on_devices(
  like: jax.ShapeDtypeStruct, cut: Callable[[Any], np.ndarray]
) -> jax.Array:
  """An array of which this process makes its part.

  Args:
    like: shape, dtype and sharding of the array.
    cut: index, a slice for each axis -> the values there; called once each.
  """
  where = like.sharding.addressable_devices_indices_map(like.shape)
  same: dict[str, list[jax.Device]] = {}
  for device, index in where.items():
    same.setdefault(str(index), []).append(device)
  parts = []
  for devices in same.values():
    values = cut(where[devices[0]])
    # A copy, not a view of host memory, so that it can be donated.
    parts += [jax.device_put(values, d, may_alias=False) for d in devices]
  return jax.make_array_from_single_device_arrays(
    like.shape, like.sharding, parts
  ).block_until_ready()


def _fill(
  family: Mapping[str, Pytree],
  old: Layout,
  name: str,
  new: Layout,
  mine: LocalRows,
  report: Callable[[int], object],
  piece: int,
) -> None:
  """Writes the rows of a new stack that belong to this process."""
  stretches = _stretches(old, new, name, piece)
  # In the order of the file, since a block of it is decoded as a whole.
  for stretch in sorted(stretches, key=lambda s: (s.source.stack, s.starts)):
    source = stretch.source.stack
    _carry(family[source], old.stacks[source], stretch, new, mine)
    report(stretch.count)


def move_into(
  family: Mapping[str, Pytree],
  old: Layout,
  arrays: Mapping[str, Pytree],
  new: Layout,
  report: Callable[[int], object] = lambda rows: None,
) -> None:
  """Moves a family of stacks into arrays on the host, such as mapped files.

  Args:
    family: as in `move`.
    old: the old layout.
    arrays: by new stack its arrays of zeros, packed or not, to be written.
    new: the new layout.
    report: as in `move`.
  """
  for name, tree in arrays.items():
    stack = new.stacks[name]
    leaves = stack.storage.leaves(stack.dim)
    by_rows = jax.tree.map(
      lambda a, x: x.reshape(-1, a.size) if x.ndim == 2 else x, leaves, tree
    )
    mine = LocalRows(0, stack.rows, stack, by_rows)
    _fill(family, old, name, new, mine, report, _PIECE)


def rows_to_move(old: Layout, new: Layout) -> int:
  """Number of rows that `move` reports in all, for one family."""
  return sum(
    stretch.count
    for stack in new.stacks
    for stretch in _stretches(old, new, stack, sys.maxsize)
  )


def move(
  family: Mapping[str, Pytree],
  old: Layout,
  wanted: Mapping[str, Pytree],
  new: Layout,
  report: Callable[[int], object] = lambda rows: None,
  piece: int = _PIECE,
  start: Mapping[str, Pytree] | None = None,
) -> dict[str, Pytree]:
  """Moves a family of stacks to another layout of the same tables.

  Copies of an independent table are averaged into one; a table that becomes
  independent is copied; where the number of copies stays, each copy stays.

  Args:
    family: by old stack its arrays `[R, width]`, packed or not, or one array
      `[R]`: objects of which a slice can be taken and made a NumPy array,
      such as a `tensorstore.TensorStore`.
    old: the old layout.
    wanted: by new stack shapes, dtypes and shardings of its arrays.
    new: the new layout.
    report: called with numbers of rows moved, `rows_to_move` in all.
    piece: bytes of a table that are read at once.
    start: by new stack the arrays whose rows stay where no table that moves
      has a row; None: zeros.

  Returns:
    Arrays by new stack.
  """

  def make_stack(name: str, like: Pytree) -> Pytree:
    stack = new.stacks[name]
    mine, arrays = local_rows(
      stack, like, None if start is None else start[name]
    )
    _fill(family, old, name, new, mine, report, piece)

    def make_array(like: jax.ShapeDtypeStruct, local: np.ndarray) -> jax.Array:
      low, _ = local_range(like)

      def cut(index: tuple[slice, ...]) -> np.ndarray:
        begin, end, _ = index[0].indices(like.shape[0])
        return local[begin - low : end - low]

      return on_devices(like, cut)

    return jax.tree.map(make_array, like, arrays)

  return {name: make_stack(name, like) for name, like in wanted.items()}
