"""Rows from one layout to another, a piece at a time.

Where a row lives is arithmetic (`Layout.locate`), so a move needs no
converter and no table as a whole. The rows of a block that one old shard
holds lie one after the other: they are read in pieces of bounded size, their
addresses in the new layout are computed, and those that land on devices of
this process are kept. A piece of which none lands here is not read. So a
process holds its own part of one new stack, and a piece.

What is moved is a *family*: one array for each stack, either `f32[R, D]`
(values, and moments of an optimizer) or `f32[R]` (the mean square of row-wise
Adagrad, over the columns of a block: blocks of other columns get the mean of
those that they overlap, weighted by shared columns).
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dlrm_jax.embedding.layout import Address, Kind, Layout

_PIECE = 8 * 2**20  # bytes


class _Run(NamedTuple):
  """Rows of a block that lie side by side in an old stack, and their way.

  Attributes:
    source: the old block.
    targets: the new blocks that share columns with it.
    first: the first row of the table.
    count: rows; from one to the next it is `source.spread`.
    starts: the first one's address in every copy that counts.
    node: whose copy this is; None: the mean of all of `starts`.
  """

  source: Address
  targets: tuple[Address, ...]
  first: int
  count: int
  starts: tuple[int, ...]
  node: int | None

  @property
  def rows(self) -> np.ndarray:
    """Of the table, i64[count]."""
    return self.first + self.source.spread * np.arange(self.count)


class _Part(NamedTuple):
  """Rows `low` to `low + len(values)` of a new stack: those of this process."""

  low: int
  values: np.ndarray

  def has(self, at: np.ndarray) -> np.ndarray:
    """Which of some addresses are in it."""
    return (at >= self.low) & (at < self.low + len(self.values))


def _overlap(old: Address, new: Address) -> bool:
  return old.column < new.column + new.dim and new.column < old.column + old.dim


def _cut(
  old: Layout, table: str, run: _Run, each: bool, most: int
) -> Iterator[_Run]:
  """Runs of at most `most` rows.

  Args:
    old: the layout.
    table: whose rows.
    run: source and targets.
    each: whether copies of an independent table stay apart.
    most: rows of a run.
  """
  block = run.source
  stack = old.stacks[block.stack]
  independent = stack.kind is Kind.INDEPENDENT
  starts = [s * stack.shard_rows + block.offset for s in range(stack.shards)]
  kept: list[tuple[int, tuple[int, ...], int | None]]
  if independent and not each:
    kept = [(0, tuple(starts), None)]
  else:
    kept = [
      (shard, (start,), shard if independent else None)
      for shard, start in enumerate(starts)
    ]
  for shard, firsts, node in kept:
    turn = 0 if independent else (shard - block.first) % stack.shards
    held = old.held(table, block, shard)
    for a in range(0, held, most):
      yield run._replace(
        first=turn + block.spread * a,
        count=min(most, held - a),
        starts=tuple(start + a for start in firsts),
        node=node,
      )


def _runs(old: Layout, new: Layout, stack: str, piece: int) -> Iterator[_Run]:
  """All that goes to a new stack, in runs of at most `piece` bytes."""
  wanted: dict[str, list[Address]] = {}
  for table, block in new.in_stack(stack):
    wanted.setdefault(table, []).append(block)
  for table, blocks in wanted.items():
    for source in old.blocks[table]:
      targets = tuple(block for block in blocks if _overlap(source, block))
      if targets:
        then, now = old.stacks[source.stack], new.stacks[stack]
        each = then.kind is now.kind and then.shards == now.shards
        run = _Run(source, targets, 0, 0, (), None)
        most = max(1, piece // (4 * source.dim))
        yield from _cut(old, table, run, each, most)


def _side_by_side(shape: tuple[int, ...], dim: int) -> int:
  """Rows of a stack in a row of its array, which may be packed."""
  return 1 if len(shape) == 1 else shape[1] // dim


def _slice(array: Any, run: _Run, start: int) -> np.ndarray:
  """`run.count` rows from `start` on."""
  k = _side_by_side(array.shape, run.source.dim)
  low, high = start // k, -(-(start + run.count) // k)
  values = np.asarray(array[low:high])
  rows = values.reshape(len(values) * k, -1) if values.ndim == 2 else values
  return rows[start - low * k :][: run.count]


def _read(array: Any, run: _Run) -> np.ndarray:
  """The rows of a run; the mean of its copies."""
  first, *others = run.starts
  values = _slice(array, run, first)
  if others:
    values = values.astype(np.float64)
    for start in others:
      values += _slice(array, run, start)
    values /= len(run.starts)
  return values


def _addresses(
  layout: Layout, block: Address, run: _Run
) -> Iterator[np.ndarray]:
  """Where the rows of a run live in the new layout: i64[n] for each copy."""
  stack = layout.stacks[block.stack]
  if stack.kind is not Kind.INDEPENDENT:
    yield layout.locate(block, run.rows)
    return
  for node in range(stack.shards) if run.node is None else (run.node,):
    yield layout.locate(block, run.rows, node)


def _place(
  part: _Part, at: np.ndarray, values: np.ndarray, old: Address, new: Address
) -> None:
  """Writes what two blocks of a table share into this process's part."""
  here = part.has(at)
  at = at[here] - part.low
  begin = max(old.column, new.column)
  end = min(old.column + old.dim, new.column + new.dim)
  if values.ndim == 1:
    part.values[at] += values[here] * ((end - begin) / new.dim)
  else:
    into = slice(begin - new.column, end - new.column)
    part.values[at, into] = values[here, begin - old.column : end - old.column]


def _carry(
  arrays: Mapping[str, Any], run: _Run, new: Layout, part: _Part
) -> None:
  """Reads a run and places it, if any of it lands in this process's part."""
  found = [
    (target, at)
    for target in run.targets
    for at in _addresses(new, target, run)
    if part.has(at).any()
  ]
  if found:
    values = _read(arrays[run.source.stack], run)
    for target, at in found:
      _place(part, at, values, run.source, target)


def local_rows(wanted: jax.ShapeDtypeStruct) -> tuple[int, int]:
  """The first row that this process has, and the one behind its last."""
  indices = wanted.sharding.addressable_devices_indices_map(wanted.shape)
  cuts = [i[0].indices(wanted.shape[0]) for i in indices.values() if i]
  return min(a for a, _, _ in cuts), max(b for _, b, _ in cuts)


def on_devices(
  like: jax.ShapeDtypeStruct, cut: Callable[[Any], np.ndarray]
) -> jax.Array:
  """An array of which this process makes its part.

  Args:
    like: its shape, dtype and sharding.
    cut: index, a slice for each axis -> the values there; asked for once.
  """
  where = like.sharding.addressable_devices_indices_map(like.shape)
  same: dict[str, list[jax.Device]] = {}
  for device, index in where.items():
    same.setdefault(str(index), []).append(device)
  parts = []
  for devices in same.values():
    values = cut(where[devices[0]])
    # Copied, not a view of host memory, so that it can be donated.
    parts += [jax.device_put(values, d, may_alias=False) for d in devices]
  return jax.make_array_from_single_device_arrays(
    like.shape, like.sharding, parts
  ).block_until_ready()


def rows_to_move(old: Layout, new: Layout) -> int:
  """What `move` reports in all, for one family."""
  return sum(
    run.count
    for stack in new.stacks
    for run in _runs(old, new, stack, sys.maxsize)
  )


def move(
  arrays: Mapping[str, Any],
  old: Layout,
  wanted: Mapping[str, jax.ShapeDtypeStruct],
  new: Layout,
  moved: Callable[[int], object] = lambda rows: None,
  piece: int = _PIECE,
) -> dict[str, jax.Array]:
  """Moves a family of stacks to another layout of the same tables.

  Copies of an independent table become one by their mean; a table that
  becomes independent is copied; as many copies as before stay themselves.

  Args:
    arrays: by old stack, `[R, D]`, packed or not, or `[R]`: anything that a
      slice can be taken of and made an array, such as a
      `tensorstore.TensorStore`.
    old: their layout.
    wanted: shapes, dtypes and shardings by new stack.
    new: their layout.
    moved: called with numbers of rows, `rows_to_move` in all.
    piece: bytes of a table that are read at once.

  Returns:
    Arrays by new stack. Rows where nothing lives are zero.
  """

  def made(stack: str, like: jax.ShapeDtypeStruct) -> jax.Array:
    low, high = local_rows(like)
    values = np.zeros((high - low, *like.shape[1:]), like.dtype)
    dim = new.stacks[stack].dim
    k = _side_by_side(like.shape, dim)
    part = _Part(
      low * k, values.reshape(-1, dim) if values.ndim == 2 else values
    )
    runs = _runs(old, new, stack, piece)
    # In the order of the file: what is decoded together is used together.
    for run in sorted(runs, key=lambda run: (run.source.stack, run.starts)):
      _carry(arrays, run, new, part)
      moved(run.count)

    def cut(index: tuple[slice, ...]) -> np.ndarray:
      begin, end, _ = index[0].indices(like.shape[0])
      return values[begin - low : end - low]

    return on_devices(like, cut)

  return {stack: made(stack, like) for stack, like in wanted.items()}
