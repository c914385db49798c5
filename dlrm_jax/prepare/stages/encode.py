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
from dlrm_jax.prepare.stages.deal import Seed, Use
from dlrm_jax.prepare.stages.mix import (
  Gather,
  Group,
  Look,
  Mix,
  gather,
  look,
  mix,
)
from dlrm_jax.prepare.stages.parse import Slice
from dlrm_jax.prepare.stages.spread import (
  Chunk,
  Plan,
  make_chunk,
  path_of,
  plan,
)
from dlrm_jax.prepare.units import Stage, mend
from dlrm_jax.vocabulary.coder import Coder
from dlrm_jax.vocabulary.columns import Columns


class Log(NamedTuple):
  """A parsed log.

  Attributes:
    columns: of the spool.
    slices: of the spool, in order.
    coders: of the sparse columns.
    groups: of lookup tables that are in memory together.
  """

  columns: Columns
  slices: Sequence[Slice]
  coders: tuple[Coder, ...]
  groups: Sequence[Group]

  @property
  def schema(self) -> Schema:
    """The columns of the set."""
    return Schema(
      tuple(column.name for column in self.columns.dense),
      tuple(Column(c.column.name, c.rows, c.hotness) for c in self.coders),
    )

  @property
  def fields(self) -> Fields:
    """What an example has."""
    weighted = any(coder.column.weighted for coder in self.coders)
    return Fields.of(self.schema, weighted, self.columns.weight)

  @property
  def splits(self) -> dict[str, list[Slice]]:
    """Slices by split."""
    found: dict[str, list[Slice]] = {}
    for part in self.slices:
      found.setdefault(part.split, []).append(part)
    return found


class _Split(NamedTuple):
  """The units of a split.

  Attributes:
    mixed: encode its slices, in order.
    plan: of how their rows get to the shards.
    gathered: make the shards.
  """

  mixed: list[Mix]
  plan: Plan
  gathered: list[Gather]


def write(
  stage: Stage,
  work: Path,
  log: Log,
  details: Mapping[str, Any],
  seed: int | None,
  scale: Scale | None,
  need: Callable[[Sequence[Slice]], None],
) -> None:
  """Encodes and shuffles a log, and writes the set.

  Args:
    stage: runs units.
    work: folder of the work; the set is made in `set`.
    log: what was parsed.
    details: what the set remembers.
    seed: of the shuffle of split train; None: in order.
    scale: of the training examples, if they are of another set.
    need: makes sure that slices of the spool can be read.
  """
  examples = {k: sum(s.rows for s in v) for k, v in log.splits.items()}
  origin = origin_of(log.schema, examples, details)
  (work / 'mixed').mkdir(exist_ok=True)
  splits = [
    _split(work, log, split, origin, None if seed is None else (seed, index))
    for index, split in enumerate(log.splits)
  ]
  mixed: list[Mix] = []
  chunks: list[Chunk] = []
  gathered: list[Gather] = []
  for split in splits:
    left = mend(split.gathered)
    gathered += split.gathered
    if left and split.plan.chunks:
      chunks += split.plan.chunks
      left = mend(split.plan.chunks)
    mixed += [unit._replace(needed=bool(left)) for unit in split.mixed]
  slices = [unit.slice for unit in mend(mixed)]
  need(slices)
  earlier = _look(stage, work, log, slices)
  mixed = [unit._replace(earlier=earlier.get(unit.slice)) for unit in mixed]
  stage('encode', mix, mixed)
  for path in (work / 'spool').glob('*.arrow'):
    path.unlink()
  if chunks:
    stage('bundle', make_chunk, chunks)
  for split in splits:
    if split.plan.chunks:  # the disk need not hold the rows three times
      shutil.rmtree(split.plan.folder)
  stage('write', gather, gathered)
  remove_unfinished(work / 'set')
  written, found = _summary(mixed)
  write_manifest(
    work / 'set', log.schema, log.fields, written, scale or found, details
  )


def _split(
  work: Path, log: Log, split: str, origin: int, key: Seed | None
) -> _Split:
  """The units of a split.

  Args:
    work: folder of the work.
    log: what was parsed.
    split: its name.
    origin: digest of what the set is made of.
    key: seed of the shuffle and number of the split; None: in order.
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
  made = plan(work, split, [s.rows for s in slices], rows, fields.width, key)
  mixed = [
    Mix(
      slice=part,
      columns=log.columns,
      coders=log.coders,
      group=log.groups[-1],
      earlier=None,
      fields=fields,
      bounds=made.bounds,
      number=number,
      seed=(Use.PART, *(key or ()), number),
      needed=True,
      matrix=path_of(made.folder, number),
      output=work / f'mixed/{split}-{number:06}.json',
    )
    for number, part in enumerate(slices)
  ]
  gathered = [
    Gather(
      source=source,
      fields=fields,
      seed=None if key is None else (Use.SHARD, *key, number),
      stamp=(origin, split_stamp(split), firsts[number]),
      blocks=lengths[number],
      output=path,
    )
    for number, (source, path) in enumerate(
      zip(made.sources, shard_paths(work / 'set', split, lengths), strict=True)
    )
  ]
  return _Split(mixed, made, gathered)


def _look(
  stage: Stage, work: Path, log: Log, slices: Sequence[Slice]
) -> dict[Slice, Path]:
  """What is found in all groups of lookup tables but the last, by slice."""
  found: dict[Slice, Path] = {}
  wanted = set(slices)  # of the others, the spool is gone
  folder = None
  for number in range(len(log.groups) - 1):
    # Other memory makes other groups: what they found is not these's.
    said = repr(log.groups[: number + 1]).encode()
    before = folder
    folder = work / f'found-{hashlib.sha256(said).hexdigest()[:16]}'
    folder.mkdir(exist_ok=True)
    units = [
      Look(
        slice=part,
        coders=log.coders,
        group=log.groups[number],
        earlier=found.get(part),
        output=folder / f'{index:06}.npz',
      )
      for index, part in enumerate(log.slices)
      if part in wanted
    ]
    mend(units)
    stage(f'look up, {number + 1} of {len(log.groups)}', look, units)
    found = {unit.slice: unit.output for unit in units}
    if before is not None:
      shutil.rmtree(before)
  return found


def _summary(mixed: Sequence[Mix]) -> tuple[dict[str, Written], Scale]:
  """Examples and clicks of the splits, and the scale of split train."""
  found = [(unit.slice.split, read_json(unit.output)) for unit in mixed]
  written = {}
  for split in dict.fromkeys(name for name, _ in found):
    parts = [part for name, part in found if name == split]
    timeline = list(itertools.chain(*(part['timeline'] for part in parts)))
    written[split] = Written(
      examples=sum(part['rows'] for part in parts),
      clicks=sum(part['clicks'] for part in parts),
      timeline=coarser(timeline),
    )
  train = [part for name, part in found if name == 'train'] or [
    part for _, part in found
  ]
  rows = sum(part['rows'] for part in train)
  sums, squares = (
    np.sum([part[name] for part in train], axis=0)
    for name in ('sum', 'squares')
  )
  return written, scale_of(rows, sums, squares)
