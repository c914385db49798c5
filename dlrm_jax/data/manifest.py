"""What a prepared set says of itself: metadata.json, written last.

It names every file with its size, and its digest, the origin, is stamped on
every block: a file that is missing, cut, or of another set is found.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.data import shards
from dlrm_jax.data.folder import MARK
from dlrm_jax.data.records import Fields
from dlrm_jax.data.schema import BLOCK_ROWS, Scale, Schema
from dlrm_jax.files import sync, write_json

FORMAT = 2

TFDS_FILES = ('dataset_info.json', 'features.json')
"""What TFDS reads before the shards."""

_STRETCHES = 200
"""Of a timeline, at most."""


class Written(NamedTuple):
  """What is known of a split once it is written.

  Attributes:
    examples: how many.
    clicks: with label 1.
    timeline: of stretches of rows in the order of the raw files: examples,
      clicks, and where known the first and the last time.
  """

  examples: int
  clicks: int
  timeline: Sequence[Sequence[int]]


def joined(timeline: Sequence[Sequence[int]]) -> list[list[int]]:
  """Neighbours together, until there are few stretches."""
  size = max(1, -(-len(timeline) // _STRETCHES))
  found = []
  for start in range(0, len(timeline), size):
    part = timeline[start : start + size]
    stretch = [sum(s[0] for s in part), sum(s[1] for s in part)]
    if len(part[0]) > 2:
      stretch += [min(s[2] for s in part), max(s[3] for s in part)]
    found.append(stretch)
  return found


def scale_of(rows: int, sums: np.ndarray, squares: np.ndarray) -> Scale:
  """Mean and deviation from f64[N] sums of values and of their squares."""
  mean = sums / rows
  variance = np.maximum(squares / rows - mean**2, 0)
  return Scale(tuple(mean.tolist()), tuple(np.sqrt(variance).tolist()))


def origin_of(
  schema: Schema, splits: Mapping[str, int], details: Mapping[str, Any]
) -> int:
  """Digest of all that a set is made of, i64.

  Args:
    schema: the columns.
    splits: examples of each split.
    details: what its maker says of it.
  """
  said = [dataclasses.asdict(schema), dict(splits), dict(details)]
  digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()
  return int.from_bytes(digest[:8], 'little', signed=True)


def digest_of(said: Mapping[str, Any]) -> str:
  """Of a description, but for its own digest."""
  rest = {name: value for name, value in said.items() if name != 'digest'}
  text = json.dumps(rest, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
  """Of a small file."""
  return hashlib.sha256(path.read_bytes()).hexdigest()


def split_stamp(split: str) -> int:
  """A split's name as a number, i64."""
  digest = hashlib.sha256(split.encode()).digest()
  return int.from_bytes(digest[:8], 'little', signed=True)


def shard_lengths(fields: Fields, examples: int) -> list[int]:
  """Blocks in each file of a split."""
  blocks = -(-examples // BLOCK_ROWS)
  full = shards.shard_blocks(fields)
  return [min(full, blocks - start) for start in range(0, blocks, full)]


def shard_paths(folder: Path, split: str, lengths: Sequence[int]) -> list[Path]:
  """The files of a split."""
  count = len(lengths)
  return [folder / shards.shard_name(split, i, count) for i in range(count)]


def write_manifest(
  folder: Path,
  schema: Schema,
  fields: Fields,
  splits: Mapping[str, Written],
  scale: Scale,
  details: Mapping[str, Any],
) -> None:
  """Describes a folder whose shards are all written.

  Args:
    folder: of the set.
    schema: the columns.
    fields: what examples have.
    splits: what was written.
    scale: of the dense features of the training examples.
    details: what its maker says of it.
  """
  lengths = {k: shard_lengths(fields, v.examples) for k, v in splits.items()}
  shards.write_tfds_metadata(folder, fields, lengths)
  sizes = {name: split.examples for name, split in splits.items()}
  files = {
    name: [p.stat().st_size for p in shard_paths(folder, name, lengths[name])]
    for name in splits
  }
  said = {
    'format': FORMAT,
    'schema': dataclasses.asdict(schema),
    'splits': {k: v._asdict() for k, v in splits.items()},
    'scale': scale._asdict(),
    'details': dict(details),
    'origin': origin_of(schema, sizes, details),
    'files': files,
    'tfds': {name: file_digest(folder / name) for name in TFDS_FILES},
  }
  for name in TFDS_FILES:  # which TFDS has written
    sync(folder / name)
  write_json(folder / MARK, {**said, 'digest': digest_of(said)})
