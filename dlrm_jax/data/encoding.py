"""Stages 4 and 5 together: slices of the spool -> the shards of a set."""

import hashlib
import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.data.coding import Coder
from dlrm_jax.data.dealing import deal
from dlrm_jax.data.manifest import (
  Written,
  describe,
  joined,
  origin_of,
  scale_of,
  shard_lengths,
  shard_paths,
  split_stamp,
)
from dlrm_jax.data.mixing import Gather, Group, Look, Mix, gather, look, mix
from dlrm_jax.data.raw import Columns
from dlrm_jax.data.records import Fields
from dlrm_jax.data.schema import BLOCK_ROWS, Column, Scale, Schema
from dlrm_jax.data.spool import Slice
from dlrm_jax.data.units import Stage, left
from dlrm_jax.files import read_json, remove_unfinished, replacing


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


def write(
  stage: Stage,
  work: Path,
  log: Log,
  details: Mapping[str, Any],
  seed: int | None,
  scale: Scale | None,
) -> None:
  """Encodes and shuffles a log, and writes the set.

  Args:
    stage: runs units.
    work: folder of the work; the set is made in `set`.
    log: what was parsed.
    details: what the set remembers.
    seed: of the shuffle of split train; None: in order.
    scale: of the training examples, if they are of another set.
  """
  examples = {k: sum(s.rows for s in v) for k, v in log.splits.items()}
  origin = origin_of(log.schema, examples, details)
  mixed: list[Mix] = []
  gathered: list[Gather] = []
  (work / 'mixed').mkdir(exist_ok=True)
  for index, (split, slices) in enumerate(log.splits.items()):
    lengths = shard_lengths(log.fields, examples[split])
    firsts = [0, *itertools.accumulate(lengths)]
    rows = [
      min(stop * BLOCK_ROWS, examples[split]) - start * BLOCK_ROWS
      for start, stop in itertools.pairwise(firsts)
    ]
    key = None if seed is None or split != 'train' else (seed, index)
    dealt = work / f'dealt-{split}.npy'
    with replacing(dealt) as path, path.open('wb') as file:
      np.save(file, deal([s.rows for s in slices], rows, key))
    parts = [
      Mix(
        slice=part,
        columns=log.columns,
        coders=log.coders,
        group=log.groups[-1],
        earlier=None,
        fields=log.fields,
        dealt=dealt,
        number=number,
        seed=None if key is None else (*key, 0, number),
        matrix=work / f'mixed/{split}-{number:06}.i32',
        output=work / f'mixed/{split}-{number:06}.json',
      )
      for number, part in enumerate(slices)
    ]
    mixed += parts
    matrices = tuple(unit.matrix for unit in parts)
    gathered += [
      Gather(
        matrices=matrices,
        dealt=dealt,
        number=number,
        fields=log.fields,
        seed=None if key is None else (*key, 1, number),
        stamp=(origin, split_stamp(split), firsts[number]),
        output=path,
      )
      for number, path in enumerate(shard_paths(work / 'set', split, lengths))
    ]
  earlier = _look(stage, work, log, [unit.slice for unit in left(mixed)])
  mixed = [unit._replace(earlier=earlier.get(unit.slice)) for unit in mixed]
  stage('encode', mix, mixed)
  for path in (work / 'spool').glob('*.arrow'):
    path.unlink()
  stage('write', gather, gathered)
  remove_unfinished(work / 'set')
  written, found = _summary(mixed)
  describe(
    work / 'set', log.schema, log.fields, written, scale or found, details
  )


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
      timeline=joined(timeline),
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
