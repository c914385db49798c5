"""Writes a prepared set from blocks that are made in order, in this process.

with creating('out') as folder:
  write(folder, schema, {'train': Split(n, blocks)}, details={...})
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrm_jax.data import manifest, shards
from dlrm_jax.data.folder import creating as creating  # belongs to `write`
from dlrm_jax.data.manifest import Written, joined, scale_of
from dlrm_jax.data.rebatch import rebatch
from dlrm_jax.data.records import Fields
from dlrm_jax.data.schema import Block, Scale, Schema


@dataclasses.dataclass(frozen=True)
class Split:
  """What to write as a split.

  Attributes:
    examples: how many examples there will be.
    blocks: makes them, in order, in blocks of any size.
  """

  examples: int
  blocks: Callable[[], Iterable[Block]]


def write(
  folder: Path,
  schema: Schema,
  splits: Mapping[str, Split],
  details: Mapping[str, Any],
  weighted: bool = False,
) -> None:
  """Writes a prepared set into a folder (see `creating`).

  Args:
    folder: where to; files that are there already stay.
    schema: the columns.
    splits: what to write, at least one example each.
    details: anything that JSON can hold: options, source files, counts. Equal
      details, schema and sizes make an equal fingerprint, so leave out times
      and places.
    weighted: whether the blocks have `id_weights`.
  """
  fields = Fields.of(schema, id_weights=weighted)
  sizes = {name: split.examples for name, split in splits.items()}
  origin = manifest.origin_of(schema, sizes, details)
  tallies = {name: _Tally(len(schema.dense)) for name in splits}
  for name, split in splits.items():
    lengths = manifest.shard_lengths(fields, split.examples)
    blocks = tallies[name].counted(rebatch(split.blocks()))
    first = 0
    paths = manifest.shard_paths(folder, name, lengths)
    for path, length in zip(paths, lengths, strict=True):
      stamp = shards.Stamp(origin, manifest.split_stamp(name), first)
      shards.write_shard(path, fields, itertools.islice(blocks, length), stamp)
      first += length
  manifest.describe(
    folder,
    schema,
    fields,
    {name: tally.written for name, tally in tallies.items()},
    tallies['train'].scale,
    details,
  )


class _Tally:
  """Counts the examples of a split and measures its dense features."""

  def __init__(self, dense: int) -> None:
    self._timeline: list[list[int]] = []
    self._sum, self._squares = np.zeros(dense), np.zeros(dense)

  def counted(self, blocks: Iterable[Block]) -> Iterator[Block]:
    """The same blocks."""
    for block in blocks:
      self._timeline.append([len(block.labels), int(block.labels.sum())])
      dense = block.dense.astype(np.float64)
      self._sum += dense.sum(0)
      self._squares += np.square(dense).sum(0)
      yield block

  @property
  def written(self) -> Written:
    """Examples and clicks."""
    examples = sum(stretch[0] for stretch in self._timeline)
    clicks = sum(stretch[1] for stretch in self._timeline)
    return Written(examples, clicks, joined(self._timeline))

  @property
  def scale(self) -> Scale:
    """Mean and standard deviation."""
    return scale_of(self.written.examples, self._sum, self._squares)
