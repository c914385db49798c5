"""Stages 4 and 5 together: slices of the spool -> the shards of a set."""

import hashlib
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.data.manifest import (
  Written,
  coarser,
  origin_of,
  scale_of,
  shard_lengths,
  shard_paths,
  split_stamp,
  write_manifest,
)
from dlrm_jax.data.records import Fields
from dlrm_jax.data.schema import BLOCK_ROWS, Column, Scale, Schema
from dlrm_jax.files import read_json, remove_unfinished
from dlrm_jax.prepare.stages.deal import Purpose, Seed
from dlrm_jax.prepare.stages.encode import (
  Encode,
  Gather,
  LookUp,
  TableGroup,
  encode_slice,
  gather,
  look_up,
)
from dlrm_jax.prepare.stages.parse import Slice
from dlrm_jax.prepare.stages.spread import (
  Chunk,
  Transfer,
  make_chunk,
  path_of,
  plan_transfer,
)
from dlrm_jax.prepare.units import Stage, discard_broken
from dlrm_jax.vocabulary.coder import Coder
from dlrm_jax.vocabulary.columns import Columns


class ParsedLog(NamedTuple):
  """A parsed log, and the way its values become rows.

  Attributes:
    columns: columns of the spool.
    slices: slices of the spool, in order.
    coders: coders of the sparse columns.
    groups: groups of lookup tables that are in memory together.
  """

  columns: Columns
  slices: Sequence[Slice]
  coders: tuple[Coder, ...]
  groups: Sequence[TableGroup]

  @property
  def schema(self) -> Schema:
    """The columns of the set."""
    return Schema(
      tuple(column.name for column in self.columns.dense),
      tuple(Column(c.column.name, c.rows, c.hotness) for c in self.coders),
      tuple(target.name for target in self.columns.targets),
      self.columns.group,
    )

  @property
  def fields(self) -> Fields:
    """Fields of an encoded example."""
    weighted = any(coder.column.weighted for coder in self.coders)
    return Fields.of(
      self.schema, id_weights=weighted, weights=self.columns.weight
    )

  @property
  def splits(self) -> dict[str, list[Slice]]:
    """Slices by split."""
    splits: dict[str, list[Slice]] = {}
    for part in self.slices:
      splits.setdefault(part.split, []).append(part)
    return splits


class _SplitUnits(NamedTuple):
  """The units of a split.

  Attributes:
    encoded: units that encode its slices, in order.
    transfer: the way of their rows to the shards.
    gathered: units that write the shards.
  """

  encoded: list[Encode]
  transfer: Transfer
  gathered: list[Gather]


def write_set(
  stage: Stage,
  work: Path,
  log: ParsedLog,
  details: Mapping[str, Any],
  seed: int | None,
  scale: Scale | None,
  need: Callable[[Sequence[Slice]], None],
) -> None:
  """Encodes and shuffles a log, and writes the set.

  Args:
    stage: runs units.
    work: the work folder; the set is written to `set` in it.
    log: the parsed log.
    details: options, source files and counts (see `Prepared.details`).
    seed: seed of the shuffle of split train; None: rows stay in order.
    scale: mean and deviation of the dense features in another set, whose
      vocabularies are used; None: those of this log.
    need: parses slices of the spool again that are missing.
  """
  examples = {k: sum(s.rows for s in v) for k, v in log.splits.items()}
  origin = origin_of(log.schema, examples, details)
  (work / 'mixed').mkdir(exist_ok=True)
  splits = [
    _units_of(work, log, split, origin, None if seed is None else (seed, index))
    for index, split in enumerate(log.splits)
  ]
  encoded: list[Encode] = []
  chunks: list[Chunk] = []
  gathered: list[Gather] = []
  for split in splits:
    undone = discard_broken(split.gathered)
    gathered += split.gathered
    if undone and split.transfer.chunks:
      chunks += split.transfer.chunks
      undone = discard_broken(split.transfer.chunks)
    encoded += [unit._replace(needed=bool(undone)) for unit in split.encoded]
  slices = [unit.slice for unit in discard_broken(encoded)]
  need(slices)
  earlier = _look_up(stage, work, log, slices)
  encoded = [unit._replace(earlier=earlier.get(unit.slice)) for unit in encoded]
  stage('encode', encode_slice, encoded)
  for path in (work / 'spool').glob('*.arrow'):
    path.unlink()
  if chunks:
    stage('bundle', make_chunk, chunks)
  for split in splits:
    if split.transfer.chunks:  # Else the disk would hold all rows three times.
      shutil.rmtree(split.transfer.folder)
  stage('write', gather, gathered)
  remove_unfinished(work / 'set')
  written, own_scale = _summary(encoded, log.schema.labels)
  write_manifest(
    work / 'set', log.schema, log.fields, written, scale or own_scale, details
  )


def _units_of(
  work: Path, log: ParsedLog, split: str, origin: int, key: Seed | None
) -> _SplitUnits:
  """The units of a split.

  Args:
    work: the work folder.
    log: the parsed log.
    split: name of the split.
    origin: digest of the content of the set.
    key: seed of the shuffle and number of the split; None: rows stay in order.
  """
  slices, fields = log.splits[split], log.fields
  examples = sum(part.rows for part in slices)
  key = key if split == 'train' else None
  lengths = shard_lengths(fields, examples)
  firsts = [0, *itertools.accumulate(lengths)]
  rows = [
    min(stop * BLOCK_ROWS, examples) - start * BLOCK_ROWS
    for start, stop in itertools.pairwise(firsts)
  ]
  parts = [part.rows for part in slices]
  transfer = plan_transfer(work, split, parts, rows, fields.width, key)
  encoded = [
    Encode(
      slice=part,
      columns=log.columns,
      coders=log.coders,
      group=log.groups[-1],
      earlier=None,
      fields=fields,
      bounds=transfer.bounds,
      number=number,
      seed=(Purpose.PART, *(key or ()), number),
      needed=True,
      matrix=path_of(transfer.folder, number),
      output=work / f'mixed/{split}-{number:06}.json',
    )
    for number, part in enumerate(slices)
  ]
  gathered = [
    Gather(
      source=source,
      fields=fields,
      seed=None if key is None else (Purpose.SHARD, *key, number),
      stamp=(origin, split_stamp(split), firsts[number]),
      blocks=lengths[number],
      output=path,
    )
    for number, (source, path) in enumerate(
      zip(
        transfer.sources, shard_paths(work / 'set', split, lengths), strict=True
      )
    )
  ]
  return _SplitUnits(encoded, transfer, gathered)


def _look_up(
  stage: Stage, work: Path, log: ParsedLog, slices: Sequence[Slice]
) -> dict[Slice, Path]:
  """Files of places found in all groups of tables but the last, by slice."""
  places: dict[Slice, Path] = {}
  wanted = set(slices)  # The spool has no other slices any more.
  folder = None
  for number in range(len(log.groups) - 1):
    # With another --memory there are other groups, in other folders.
    groups = repr(log.groups[: number + 1]).encode()
    before = folder
    folder = work / f'found-{hashlib.sha256(groups).hexdigest()[:16]}'
    folder.mkdir(exist_ok=True)
    units = [
      LookUp(
        slice=part,
        coders=log.coders,
        group=log.groups[number],
        earlier=places.get(part),
        output=folder / f'{index:06}.npz',
      )
      for index, part in enumerate(log.slices)
      if part in wanted
    ]
    discard_broken(units)
    stage(f'look up, {number + 1} of {len(log.groups)}', look_up, units)
    places = {unit.slice: unit.output for unit in units}
    if before is not None:
      shutil.rmtree(before)
  return places


def _summary(
  encoded: Sequence[Encode], labels: Sequence[str]
) -> tuple[dict[str, Written], Scale]:
  """Counts of the splits, and the scale of split train, or of all rows."""
  statistics = [(unit.slice.split, read_json(unit.output)) for unit in encoded]
  written = {}
  for split in dict.fromkeys(name for name, _ in statistics):
    parts = [part for name, part in statistics if name == split]
    counts = np.sum([part['labels'] for part in parts], axis=0).tolist()
    timeline = list(itertools.chain(*(part['timeline'] for part in parts)))
    written[split] = Written(
      examples=sum(part['rows'] for part in parts),
      clicks=counts[0][1],
      timeline=coarser(timeline),
      labels=dict(zip(labels, counts, strict=True)) if len(labels) > 1 else {},
    )
  train = [part for name, part in statistics if name == 'train'] or [
    part for _, part in statistics
  ]
  rows = sum(part['rows'] for part in train)
  sums, squares = (
    np.sum([part[name] for part in train], axis=0)
    for name in ('sum', 'squares')
  )
  return written, scale_of(rows, sums, squares)
