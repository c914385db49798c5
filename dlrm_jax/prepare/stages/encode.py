"""Stages 4 and 5: slices of the spool -> parts of encoded rows -> shards.

A unit encodes one slice of the spool. If the lookup tables exceed memory, they
are read in groups: `look_up` finds places of values in one group and stores
them, and `encode_slice` reads the last group.
"""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.batch import NO_GROUP
from dlrm_jax.data.records import Fields, pack
from dlrm_jax.data.schema import Block
from dlrm_jax.files import replacing
from dlrm_jax.prepare.stages.deal import Seed
from dlrm_jax.prepare.stages.multi_hot import expand
from dlrm_jax.prepare.stages.parse import Slice
from dlrm_jax.prepare.stages.spread import Pile, Stretch, by_pile
from dlrm_jax.prepare.stages.transforms import transform
from dlrm_jax.prepare.units import read_mark, size_is, write_mark
from dlrm_jax.vocabulary.coder import Coder, padded
from dlrm_jax.vocabulary.columns import GROUP, Columns, flat_values
from dlrm_jax.vocabulary.hashing import hashed_rows

_GROUPS = 2**31 - 1
"""Number of the numbers of groups."""

TableGroup = tuple[tuple[int, ...], ...]
"""Lookup tables that are in memory together: their numbers, by column."""


class LookUp(NamedTuple):
  """A unit: looks the values of a slice up in a group of tables.

  Attributes:
    slice: the rows.
    coders: coders of the sparse columns.
    group: the tables.
    earlier: file of the places found in earlier groups; None: there are none.
    output: file for the places found so far.
  """

  slice: Slice
  coders: tuple[Coder, ...]
  group: TableGroup
  earlier: Path | None
  output: Path

  def sound(self) -> bool:
    """Whether the file is a whole zip archive."""
    return zipfile.is_zipfile(self.output)


class Encode(NamedTuple):
  """A unit: encodes a slice, which becomes a part.

  Attributes:
    slice: the rows.
    columns: columns of the spool.
    coders: coders of the sparse columns.
    group: the last group of lookup tables.
    earlier: file of the places found in earlier groups; None: there are none.
    fields: fields of an encoded example.
    bounds: file of i32[piles + 1, parts]: rows of each part before each pile;
      None: rows stay in order.
    number: number of the part.
    seed: seed of the draw of rows for the piles.
    needed: whether the part will still be read.
    matrix: file of the part, i32[n, W], sorted by pile.
    output: JSON file with statistics of the rows.
  """

  slice: Slice
  columns: Columns
  coders: tuple[Coder, ...]
  group: TableGroup
  earlier: Path | None
  fields: Fields
  bounds: Path | None
  number: int
  seed: Seed
  needed: bool
  matrix: Path
  output: Path

  def sound(self) -> bool:
    """Whether the statistics are whole, and the part too if it is needed."""
    size = self.slice.rows * self.fields.width * 4
    return read_mark(self.output) is not None and (
      not self.needed or size_is(self.matrix, size)
    )


def _values(coder: Coder, frame: pl.DataFrame) -> pl.Series:
  """All values of a column, changed for the lookup."""
  return coder.prepare.of(flat_values(coder.column, frame))


def _places(
  coders: tuple[Coder, ...],
  group: TableGroup,
  earlier: Path | None,
  frame: pl.DataFrame,
) -> list[np.ndarray | None]:
  """Places of each column's values in its vocabulary; None without one."""
  before = None if earlier is None else np.load(earlier)
  by_column: list[np.ndarray | None] = []
  for coder, tables in zip(coders, group, strict=True):
    if not coder.tables:
      by_column.append(None)
      continue
    places = coder.places_of(_values(coder, frame), tables)
    if before is not None:
      np.maximum(places, before[coder.column.name], out=places)
    by_column.append(places)
  return by_column


def look_up(unit: LookUp) -> None:
  """Stores the places found in a group, with those found in earlier groups."""
  names = [coder.column.name for coder in unit.coders if coder.tables]
  frame = unit.slice.read(names)
  places = _places(unit.coders, unit.group, unit.earlier, frame)
  with replacing(unit.output, synced=False) as work, work.open('wb') as file:
    kept = [array for array in places if array is not None]
    np.savez(file, allow_pickle=False, **dict(zip(names, kept, strict=True)))


def _encoded(
  columns: Columns,
  coders: tuple[Coder, ...],
  places: list[np.ndarray | None],
  frame: pl.DataFrame,
) -> Block:
  """Rows of the spool -> as many examples.

  Args:
    columns: columns of the spool.
    coders: coders of the sparse columns.
    places: places of each column's values in its vocabulary.
    frame: the rows.

  Raises:
    InputError: a value has no row, or no logarithm.
  """
  weighted = any(coder.column.weighted for coder in coders)
  ids, id_weights = [], []
  for coder, found in zip(coders, places, strict=True):
    rows = coder.rows_of(_values(coder, frame), found)
    name = coder.column.name
    if not coder.column.bag:
      bags = rows[:, None]
      if coder.bags is not None:
        bags = expand(coder.drawn(), rows)
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
    labels=_labels(columns, frame),
    id_weights=np.concatenate(id_weights, axis=1) if weighted else None,
    weights=frame['weight'].to_numpy() if columns.weight else None,
    group=group_numbers(frame[GROUP]) if columns.group else None,
  )


def _labels(columns: Columns, frame: pl.DataFrame) -> np.ndarray:
  """Labels of n rows, f32[n, T]; NaN where a label is missing."""
  labels = np.empty((frame.height, len(columns.targets)), np.float32)
  for number, name in enumerate(columns.labels):
    labels[:, number] = frame[name].cast(pl.Float32).fill_null(np.nan)
  return labels


def group_numbers(values: pl.Series) -> np.ndarray:
  """Values of the column of groups -> numbers of groups, i32[n].

  A number is a hash of the value, which needs no memory and is the same in
  every file. Among n groups of a split, n^2 / 2^32 pairs share a number: one
  pair among 65,000 groups, some 200 among a million. A missing value is
  `NO_GROUP`.
  """
  numbers = hashed_rows(values, _GROUPS)
  missing = values.is_null().to_numpy()
  return np.where(missing, np.int32(NO_GROUP), numbers)


def encode_frame(
  columns: Columns, coders: tuple[Coder, ...], frame: pl.DataFrame
) -> Block:
  """Rows of a log -> as many examples, with all lookup tables in memory."""
  every = tuple(tuple(range(len(coder.tables))) for coder in coders)
  return _encoded(columns, coders, _places(coders, every, None, frame), frame)


def encode_slice(unit: Encode) -> None:
  """Encodes a slice, sorts its rows by pile, and writes part and statistics."""
  frame = unit.slice.read()
  places = _places(unit.coders, unit.group, unit.earlier, frame)
  block = _encoded(unit.columns, unit.coders, places, frame)
  rows = pack(unit.fields, block)
  if unit.bounds is not None:
    rows = by_pile(rows, unit.bounds, unit.number, unit.seed)
  with replacing(unit.matrix) as work:
    rows.tofile(work)
  dense = block.dense.astype(np.float64)
  statistics = {
    'rows': len(rows),
    'labels': [
      [int(np.sum(~np.isnan(x))), int(np.nansum(x))] for x in block.labels.T
    ],
    'sum': dense.sum(0).tolist(),
    'squares': np.square(dense).sum(0).tolist(),
    'timeline': _timeline(frame, unit.columns.labels[0]),
  }
  write_mark(unit.output, statistics)
  if unit.slice.whole:  # Large logs are short of disk.
    unit.slice.path.unlink(missing_ok=True)


_STRETCH = 1 << 13


def _timeline(frame: pl.DataFrame, label: str) -> list[list[int]]:
  """Counts of stretches of rows, as in `manifest.Written`."""
  timeline = []
  for part in frame.iter_slices(_STRETCH):
    stretch: list[Any] = [part.height, int(part[label].sum())]
    if 'time' in frame.columns:
      stretch += [part['time'].min(), part['time'].max()]
    timeline.append(stretch)
  return timeline


class Gather(NamedTuple):
  """A unit: writes one shard.

  Attributes:
    source: the rows of the shard, in parts or chunks.
    fields: fields of an encoded example.
    seed: seed of the order of rows; None: rows stay in order.
    stamp: origin, split and number of the first block.
    blocks: number of blocks of the shard.
    output: file of the shard.
  """

  source: Pile | Stretch
  fields: Fields
  seed: Seed | None
  stamp: tuple[int, int, int]
  blocks: int
  output: Path

  def sound(self) -> bool:
    """Whether the file can be read and has all blocks."""
    from dlrm_jax.data import shards

    return shards.is_whole(self.output, self.blocks)


def gather(unit: Gather) -> None:
  """Reads the rows of a shard, shuffles them, and writes them in blocks."""
  # Only the last stage needs array_record and TFDS.
  from dlrm_jax.data import shards

  rows = unit.source.read()
  order = np.arange(len(rows))
  if unit.seed is not None:
    order = np.random.default_rng(unit.seed).permutation(len(rows))
  shards.write_shard(
    unit.output,
    unit.fields,
    shards.blocks_of(unit.fields, rows, order),
    shards.Stamp(*unit.stamp),
  )
