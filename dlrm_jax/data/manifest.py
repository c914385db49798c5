"""The description of a prepared set: metadata.json, which is written last.

It lists every file with its size. A digest of its content, the origin, is
stamped on every block. So files that are missing, cut or of another set are
found.
"""

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
"""Files that TFDS reads before the shards."""

_STRETCHES = 200
"""Maximum number of stretches of a timeline."""


class Written(NamedTuple):
  """Counts of a split that has been written.

  Attributes:
    examples: number of examples.
    clicks: number of examples whose first label is 1.
    timeline: a list for each stretch of rows, in the order of the raw files:
      number of examples, number of clicks and, if the log has times, the
      first and the last time.
    labels: of each label, where there are several, the number of examples that
      have it, and of those where it is 1.
  """

  examples: int
  clicks: int
  timeline: Sequence[Sequence[int]]
  labels: Mapping[str, Sequence[int]] = {}


def coarser(timeline: Sequence[Sequence[int]]) -> list[list[int]]:
  """A timeline whose neighbours are merged until few stretches are left."""
  size = max(1, -(-len(timeline) // _STRETCHES))
  merged = []
  for start in range(0, len(timeline), size):
    part = timeline[start : start + size]
    stretch = [sum(s[0] for s in part), sum(s[1] for s in part)]
    if len(part[0]) > 2:
      stretch += [min(s[2] for s in part), max(s[3] for s in part)]
    merged.append(stretch)
  return merged


def scale_of(rows: int, sums: np.ndarray, squares: np.ndarray) -> Scale:
  """Mean and deviation of N features.

  Args:
    rows: number of examples.
    sums: sums of the values of each feature, f64[N].
    squares: sums of their squares, f64[N].
  """
  mean = sums / rows
  variance = np.maximum(squares / rows - mean**2, 0)
  return Scale(tuple(mean.tolist()), tuple(np.sqrt(variance).tolist()))


def origin_of(
  schema: Schema, splits: Mapping[str, int], details: Mapping[str, Any]
) -> int:
  """Digest of the content of a set, i64.

  Args:
    schema: the columns.
    splits: number of examples of each split.
    details: options, source files and counts (see `Prepared.details`).
  """
  content = [schema.to_json(), dict(splits), dict(details)]
  digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
  return int.from_bytes(digest[:8], 'little', signed=True)


def manifest_digest(metadata: Mapping[str, Any]) -> str:
  """Digest of a description, without its field `digest`."""
  rest = {name: value for name, value in metadata.items() if name != 'digest'}
  text = json.dumps(rest, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
  """Digest of a small file."""
  return hashlib.sha256(path.read_bytes()).hexdigest()


def split_stamp(split: str) -> int:
  """The name of a split as a number, i64."""
  digest = hashlib.sha256(split.encode()).digest()
  return int.from_bytes(digest[:8], 'little', signed=True)


def shard_lengths(fields: Fields, examples: int) -> list[int]:
  """Number of blocks in each file of a split."""
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
  """Describes a folder whose shards have all been written.

  Args:
    folder: folder of the set.
    schema: the columns.
    fields: fields of an example.
    splits: counts of each split.
    scale: mean and deviation of the dense features in the training examples.
    details: options, source files and counts (see `Prepared.details`).
  """
  lengths = {k: shard_lengths(fields, v.examples) for k, v in splits.items()}
  shards.write_tfds_metadata(folder, fields, lengths)
  sizes = {name: split.examples for name, split in splits.items()}
  files = {
    name: [p.stat().st_size for p in shard_paths(folder, name, lengths[name])]
    for name in splits
  }
  metadata = {
    'format': FORMAT,
    'schema': schema.to_json(),
    'splits': {
      name: {k: x for k, x in split._asdict().items() if x != {}}
      for name, split in splits.items()
    },
    'scale': scale._asdict(),
    'details': dict(details),
    'origin': origin_of(schema, sizes, details),
    'files': files,
    'tfds': {name: file_digest(folder / name) for name in TFDS_FILES},
  }
  for name in TFDS_FILES:  # TFDS does not sync them.
    sync(folder / name)
  digest = manifest_digest(metadata)
  write_json(folder / MARK, {**metadata, 'digest': digest})
