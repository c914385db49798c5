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

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dlrm_jax.embedding.layout import Address, Kind, Layout

_PIECE = 8 * 2**20  # bytes


class _Run(NamedTuple):
  """Rows of a table that lie side by side in an old stack.

  Attributes:
    rows: i64[n], of the table.
    starts: the first one's address in every copy that counts.
    node: whose copy this is, None where it is the mean of `starts`.
  """

  rows: np.ndarray
  starts: tuple[int, ...]
  node: int | None


class _Part(NamedTuple):
  """Rows `low` to `low + len(values)` of a new stack: those of this process."""

  low: int
  values: np.ndarray


def _runs(
  layout: Layout, table: str, block: Address, each: bool, most: int
) -> Iterator[_Run]:
  """All of a block, in runs of at most `most` rows.

  Args:
    layout: the old one.
    table: whose block.
    block: of the table.
    each: whether copies of an independent table stay apart.
    most: rows of a run.
  """
  stack = layout.stacks[block.stack]
  independent = stack.kind is Kind.INDEPENDENT
  starts = [s * stack.shard_rows + block.offset for s in range(stack.shards)]
  if independent and not each:
    kept = [(0, tuple(starts), None)]
  else:
    kept = [
      (shard, (start,), shard if independent else None)
      for shard, start in enumerate(starts)
    ]
  for shard, starts_of, node in kept:
    turn = 0 if independent else (shard - block.first) % stack.shards
    held = layout.held(table, block, shard)
    for a in range(0, held, most):
      rows = turn + block.spread * np.arange(a, min(a + most, held))
      yield _Run(rows, tuple(start + a for start in starts_of), node)


def _read(array: Any, run: _Run) -> np.ndarray:
  """The rows of a run; the mean of its copies."""
  n = len(run.rows)
  first, *others = run.starts
  values = np.asarray(array[first : first + n])
  if others:
    values = values.astype(np.float64)
    for start in others:
      values += np.asarray(array[start : start + n])
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
  here = (at >= part.low) & (at < part.low + len(part.values))
  at = at[here] - part.low
  begin = max(old.column, new.column)
  end = min(old.column + old.dim, new.column + new.dim)
  if values.ndim == 1:
    part.values[at] += values[here] * ((end - begin) / new.dim)
  else:
    into = slice(begin - new.column, end - new.column)
    part.values[at, into] = values[here, begin - old.column : end - old.column]


def _overlap(old: Address, new: Address) -> bool:
  return old.column < new.column + new.dim and new.column < old.column + old.dim


class _Mover(NamedTuple):
  """A family on its way.

  Attributes:
    arrays: the old ones: slices of them are read.
    old: their layout.
    new: the layout wanted.
    moved: told of rows that were dealt with.
    piece: bytes read at once.
  """

  arrays: Mapping[str, Any]
  old: Layout
  new: Layout
  moved: Callable[[int], object]
  piece: int

  def fill(self, stack: str, part: _Part) -> None:
    """Reads what lives in this process's part of a new stack."""
    wanted: dict[str, list[Address]] = {}
    for table, block in self.new.in_stack(stack):
      wanted.setdefault(table, []).append(block)
    for table, blocks in wanted.items():
      for source in self.old.blocks[table]:
        targets = [block for block in blocks if _overlap(source, block)]
        if targets:
          self._fill(table, source, targets, part)
        self.moved(self.old.rows[table])

  def _fill(
    self, table: str, source: Address, targets: list[Address], part: _Part
  ) -> None:
    array, old = self.arrays[source.stack], self.old.stacks[source.stack]
    new = self.new.stacks[targets[0].stack]
    each = old.kind is new.kind and old.shards == new.shards
    width = math.prod(array.shape[1:])
    most = max(1, self.piece // (width * part.values.itemsize))
    for run in _runs(self.old, table, source, each, most):
      found = [
        (target, at)
        for target in targets
        for at in _addresses(self.new, target, run)
        if np.any((at >= part.low) & (at < part.low + len(part.values)))
      ]
      if found:
        values = _read(array, run)
        for target, at in found:
          _place(part, at, values, source, target)


def _local_rows(wanted: jax.ShapeDtypeStruct) -> tuple[int, int]:
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
    cut: index, a slice for each axis -> the values there.
  """
  array = jax.make_array_from_callback(like.shape, like.sharding, cut)
  # Owned by its devices, not a view of host memory, so it can be donated.
  return jax.jit(lambda x: x, donate_argnums=0)(array).block_until_ready()


def rows_to_move(old: Layout, new: Layout) -> int:
  """What `move` reports in all, for one family."""
  return sum(
    old.rows[table] * len(old.blocks[table])
    for table, blocks in new.blocks.items()
    for _ in {block.stack for block in blocks}
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
    arrays: by old stack, `[R, D]` or `[R]`: anything that a slice of rows can
      be taken of and made an array, such as a `tensorstore.TensorStore`.
    old: their layout.
    wanted: shapes, dtypes and shardings by new stack.
    new: their layout.
    moved: called with numbers of rows, `rows_to_move` in all.
    piece: bytes that are read at once.

  Returns:
    Arrays by new stack. Rows where nothing lives are zero.
  """
  mover = _Mover(arrays, old, new, moved, piece)

  def made(stack: str, like: jax.ShapeDtypeStruct) -> jax.Array:
    low, high = _local_rows(like)
    values = np.zeros((high - low, *like.shape[1:]), like.dtype)
    mover.fill(stack, _Part(low, values))

    def cut(index: tuple[slice, ...]) -> np.ndarray:
      begin, end, _ = index[0].indices(like.shape[0])
      return values[begin - low : end - low]

    return on_devices(like, cut)

  return {stack: made(stack, like) for stack, like in wanted.items()}
