"""Stages 4 and 5: slices of the spool -> encoded parts -> shards.

A unit encodes one slice of the spool. Where not all lookup tables have room in
memory at once, `look` is run for a group of them at a time, and keeps what it
found; the last group is looked in by `mix`.
"""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.data.records import Fields, pack
from dlrm_jax.data.schema import Block
from dlrm_jax.files import replacing
from dlrm_jax.prepare.stages.deal import Seed
from dlrm_jax.prepare.stages.multi_hot import expand
from dlrm_jax.prepare.stages.parse import Slice
from dlrm_jax.prepare.stages.spread import Pile, Stretch, by_pile
from dlrm_jax.prepare.stages.transforms import transform
from dlrm_jax.prepare.units import marked, size_is, write_mark
from dlrm_jax.vocabulary.coder import Coder, padded
from dlrm_jax.vocabulary.columns import Columns, flat_values

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

  def sound(self) -> bool:
    """Whether it is an archive to its end."""
    return zipfile.is_zipfile(self.output)


class Mix(NamedTuple):
  """A unit: encodes a slice.

  Attributes:
    slice: the rows.
    columns: of the spool.
    coders: of the sparse columns.
    group: the last lookup tables.
    earlier: what was found in the others, if there are any.
    fields: of the result.
    bounds: file of i32[piles + 1, parts], how parts are dealt; None: they
      stay in order.
    number: this part.
    seed: of which row is for which pile.
    needed: whether its matrix is still to be read.
    matrix: file to make: i32[n, W], sorted by pile.
    output: JSON file: what the rows are like.
  """

  slice: Slice
  columns: Columns
  coders: tuple[Coder, ...]
  group: Group
  earlier: Path | None
  fields: Fields
  bounds: Path | None
  number: int
  seed: Seed
  needed: bool
  matrix: Path
  output: Path

  def sound(self) -> bool:
    """Whether it says what rows are like, and has them if they are needed."""
    size = self.slice.rows * self.fields.width * 4
    return marked(self.output) is not None and (
      not self.needed or size_is(self.matrix, size)
    )


def _values(coder: Coder, frame: pl.DataFrame) -> pl.Series:
  """All values of a column, as they are looked up."""
  return coder.prepare.of(flat_values(coder.column, frame))


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
    places = coder.places_of(_values(coder, frame), tables)
    if before is not None:
      np.maximum(places, before[coder.column.name], out=places)
    found.append(places)
  return found


def look(unit: Look) -> None:
  """Looks up, and keeps places beside those of the groups before."""
  names = [coder.column.name for coder in unit.coders if coder.tables]
  frame = unit.slice.read(names)
  found = _found(unit.coders, unit.group, unit.earlier, frame)
  with replacing(unit.output, synced=False) as work, work.open('wb') as file:
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
  """Encodes a slice, and sorts its rows by pile."""
  frame = unit.slice.read()
  found = _found(unit.coders, unit.group, unit.earlier, frame)
  block = encode(unit.columns, unit.coders, found, frame)
  rows = pack(unit.fields, block)
  if unit.bounds is not None:
    rows = by_pile(rows, unit.bounds, unit.number, unit.seed)
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
  write_mark(unit.output, found_in)
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
  """A unit: makes one shard.

  Attributes:
    source: where its rows are.
    fields: of the rows.
    seed: of the order of rows; None: as they are.
    stamp: origin, split and number of the first block.
    blocks: of the shard.
    output: the shard.
  """

  source: Pile | Stretch
  fields: Fields
  seed: Seed | None
  stamp: tuple[int, int, int]
  blocks: int
  output: Path

  def sound(self) -> bool:
    """Whether it can be read and has all its blocks."""
    from dlrm_jax.data import shards

    return shards.is_whole(self.output, self.blocks)


def gather(unit: Gather) -> None:
  """Reads the shard's rows, shuffles them, writes them in blocks."""
  # array_record and TFDS: only the last stage needs them.
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
