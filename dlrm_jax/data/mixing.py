"""Stage 4: parts of the spool -> encoded rows, sorted by shard.

A unit encodes one slice of the spool. Where not all lookup tables have room in
memory at once, `look` is run for a group of them at a time, and keeps what it
found; the last group is looked in by `mix`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.data.coding import Coder, padded
from dlrm_jax.data.multi_hot import expand
from dlrm_jax.data.raw import Columns, flat
from dlrm_jax.data.records import Fields, pack
from dlrm_jax.data.schema import Block
from dlrm_jax.data.spool import Slice
from dlrm_jax.data.transforms import transform
from dlrm_jax.files import replacing, write_json

Group = tuple[tuple[int, ...], ...]
"""Of lookup tables: which of each column's are in memory."""


class Look(NamedTuple):
  """A unit: looks the values of a slice up in a group of tables.

  Attributes:
    slice: the rows.
    coders: of the columns.
    group: the tables.
    earlier: what was found in the groups before, if any.
    output: file for what is found.
  """

  slice: Slice
  coders: tuple[Coder, ...]
  group: Group
  earlier: Path | None
  output: Path


class Mix(NamedTuple):
  """A unit: encodes a slice.

  Attributes:
    slice: the rows.
    columns: of the spool.
    coders: of the sparse columns.
    group: the last lookup tables.
    earlier: what was found in the others, if there are any.
    fields: of the result.
    dealt: file of i32[parts, shards], rows of each part to each shard.
    number: this part.
    seed: of which row is for which shard; None: in order.
    matrix: file to make: i32[n, W]; the first rows are for the first shard.
    output: JSON file: what the rows are like.
  """

  slice: Slice
  columns: Columns
  coders: tuple[Coder, ...]
  group: Group
  earlier: Path | None
  fields: Fields
  dealt: Path
  number: int
  seed: tuple[int, ...] | None
  matrix: Path
  output: Path


def _values(coder: Coder, frame: pl.DataFrame) -> pl.Series:
  """All values of a column, as they are looked up."""
  return coder.prepare.of(flat(coder.column, frame))


def _found(
  coders: tuple[Coder, ...],
  group: Group,
  earlier: Path | None,
  frame: pl.DataFrame,
) -> list[np.ndarray | None]:
  """Places of each column's values in its vocabulary, if it has one."""
  before = None if earlier is None else np.load(earlier)
  found: list[np.ndarray | None] = []
  for coder, tables in zip(coders, group, strict=True):
    if not coder.tables:
      found.append(None)
      continue
    places = coder.found(_values(coder, frame), tables)
    if before is not None:
      np.maximum(places, before[coder.column.name], out=places)
    found.append(places)
  return found


def look(unit: Look) -> None:
  """Looks up, and keeps places beside those of the groups before."""
  names = [coder.column.name for coder in unit.coders if coder.tables]
  frame = unit.slice.read(names)
  found = _found(unit.coders, unit.group, unit.earlier, frame)
  with replacing(unit.output) as work, work.open('wb') as file:
    kept = [places for places in found if places is not None]
    np.savez(file, allow_pickle=False, **dict(zip(names, kept, strict=True)))


def encode(
  columns: Columns,
  coders: tuple[Coder, ...],
  found: list[np.ndarray | None],
  frame: pl.DataFrame,
) -> Block:
  """Rows of the spool -> as many examples.

  Args:
    columns: of the spool.
    coders: of the sparse columns.
    found: places of the values in the vocabularies.
    frame: the rows.

  Raises:
    InputError: a value has no row, or no logarithm.
  """
  weighted = any(coder.column.weighted for coder in coders)
  ids, id_weights = [], []
  for coder, places in zip(coders, found, strict=True):
    rows = coder.rows_of(_values(coder, frame), places)
    name = coder.column.name
    if not coder.column.bag:
      bags = rows[:, None]
      if coder.bags is not None:
        bags = expand(coder.bags, coder.rows, coder.hotness, rows)
      ids.append(bags)
      if weighted:
        id_weights.append(np.ones(bags.shape, np.float32))
      continue
    lengths = frame[name].list.len().fill_null(0).to_numpy()
    ids.append(padded(name, lengths, rows, coder.hotness))
    weights = np.ones(len(rows), np.float32)
    if coder.column.weighted:
      weights = frame[f'{name}.weights'].explode().drop_nulls().to_numpy()
    id_weights.append(padded(name, lengths, weights, coder.hotness))
  return Block(
    dense=transform(columns.dense, frame),
    ids=np.concatenate(ids, axis=1, dtype=np.int32),
    labels=frame['label'].cast(pl.Float32).to_numpy(),
    id_weights=np.concatenate(id_weights, axis=1) if weighted else None,
    weights=frame['weight'].to_numpy() if columns.weight else None,
  )


def encode_frame(
  columns: Columns, coders: tuple[Coder, ...], frame: pl.DataFrame
) -> Block:
  """Rows of a log -> as many examples, all lookup tables in memory."""
  every = tuple(tuple(range(len(coder.tables))) for coder in coders)
  return encode(columns, coders, _found(coders, every, None, frame), frame)


def mix(unit: Mix) -> None:
  """Encodes a slice, and sorts its rows by shard."""
  frame = unit.slice.read()
  found = _found(unit.coders, unit.group, unit.earlier, frame)
  block = encode(unit.columns, unit.coders, found, frame)
  rows = pack(unit.fields, block)
  if unit.seed is not None:
    counts = np.load(unit.dealt, mmap_mode='r')[unit.number]
    shard = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
    np.random.default_rng(unit.seed).shuffle(shard)
    rows = rows[np.argsort(shard, kind='stable')]
  with replacing(unit.matrix) as work:
    rows.tofile(work)
  dense = block.dense.astype(np.float64)
  found_in = {
    'rows': len(rows),
    'clicks': int(block.labels.sum()),
    'sum': dense.sum(0).tolist(),
    'squares': np.square(dense).sum(0).tolist(),
    'timeline': _timeline(frame),
  }
  write_json(unit.output, found_in)
  if unit.slice.whole:  # disk is what large logs lack
    unit.slice.path.unlink(missing_ok=True)


_STRETCH = 1 << 13


def _timeline(frame: pl.DataFrame) -> list[list[int]]:
  """Rows and clicks (and first and last time) of stretches of rows."""
  found = []
  for part in frame.iter_slices(_STRETCH):
    stretch: list[Any] = [part.height, int(part['label'].sum())]
    if 'time' in frame.columns:
      stretch += [part['time'].min(), part['time'].max()]
    found.append(stretch)
  return found


class Gather(NamedTuple):
  """A unit: makes one shard of what the parts have for it.

  Attributes:
    matrices: of the parts.
    dealt: file of i32[parts, shards].
    number: the shard.
    fields: of the rows.
    seed: of the order of rows; None: as they are.
    stamp: origin, split and number of the first block.
    output: the shard.
  """

  matrices: tuple[Path, ...]
  dealt: Path
  number: int
  fields: Fields
  seed: tuple[int, ...] | None
  stamp: tuple[int, int, int]
  output: Path


def gather(unit: Gather) -> None:
  """Reads the shard's rows, shuffles them, writes them in blocks."""
  # array_record and TFDS: only the last stage needs them.
  from dlrm_jax.data import shards

  dealt = np.load(unit.dealt, mmap_mode='r')
  counts = dealt[:, unit.number].astype(np.int64)
  starts = dealt[:, : unit.number].sum(1, dtype=np.int64)
  width = unit.fields.width
  rows = np.empty((counts.sum(), width), np.int32)
  end = 0
  for path, start, count in zip(unit.matrices, starts, counts, strict=True):
    if not count:
      continue
    rows[end : end + count] = np.fromfile(
      path, np.int32, count * width, offset=start * width * 4
    ).reshape(count, width)
    end += count
  order = np.arange(len(rows))
  if unit.seed is not None:
    order = np.random.default_rng(unit.seed).permutation(len(rows))
  shards.write_shard(
    unit.output,
    unit.fields,
    shards.blocks_of(unit.fields, rows, order),
    shards.Stamp(*unit.stamp),
  )
