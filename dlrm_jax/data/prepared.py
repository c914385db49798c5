"""A prepared click log on disk: written once, opened fast, read by block.

The folder is a TFDS data set (dataset_info.json, features.json and
array_record files) with metadata.json (see `manifest`) and vocabularies. It
gets its name only when it is complete.

    prepared = open_prepared('out')
    prepared.source('train')[0]  # Block
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dlrm_jax.data.folder import MARK, vocabulary_path
from dlrm_jax.data.manifest import (
  FORMAT,
  TFDS_FILES,
  file_digest,
  manifest_digest,
  shard_paths,
  split_stamp,
)
from dlrm_jax.data.schema import BLOCK_ROWS, Block, Scale, Schema
from dlrm_jax.errors import InputError


def _allow_files(files: int) -> None:
  """Raises the limit of open files by about `files`, where that is allowed."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if files < soft // 4 or soft == resource.RLIM_INFINITY:
    return
  wanted = soft + 2 * files
  if hard != resource.RLIM_INFINITY:
    wanted = min(wanted, hard)
  # macOS has further limits and may refuse. If the limit is then too low, the
  # first file that cannot be opened raises an error.
  with contextlib.suppress(OSError, ValueError):
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, soft), hard))


class _Blocks:
  """The blocks of a split; a `Source`."""

  def __init__(self, prepared: 'Prepared', split: str) -> None:
    import tensorflow_datasets as tfds

    self.schema = prepared.schema
    self.examples = prepared.splits[split]
    self._name = f'{prepared.directory}, split {split}'
    _allow_files(prepared.files[split])
    self._stamp = (prepared.origin, split_stamp(split))
    try:
      builder: Any = tfds.builder_from_directory(prepared.directory)
      self._records: Sequence[dict[str, Any]] = builder.as_data_source(split)
      blocks = len(self._records)
    except (OSError, ValueError, RuntimeError) as error:
      raise _broken(self._name, error) from error
    if blocks != -(-self.examples // BLOCK_ROWS):
      raise _broken(self._name, f'{blocks} blocks')

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, block: int) -> Block:
    if not 0 <= block < len(self):
      raise IndexError(f'{self._name} has {len(self)} blocks, not {block}')
    name = f'{self._name}, block {block}'
    try:
      record = self._records[block]
      if tuple(record['stamp'].tolist()) != (*self._stamp, block):
        raise _broken(name, 'it is of another set, or of another place in it')
      labels = record['labels']
      if not self.schema.dense:
        record['dense'] = np.empty((len(labels), 0), np.float32)
      return Block(
        record['dense'],
        record['ids'],
        labels.reshape(len(labels), -1),
        record.get('id_weights'),
        record.get('weights'),
        record.get('group'),
      )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
      if 'Too many open files' in str(error):
        raise InputError(
          f'{name}: too many open files; allow more (ulimit -n 65536)'
        ) from error
      raise _broken(name, error) from error


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A prepared set on disk.

  Attributes:
    directory: folder of the set.
    schema: the columns.
    splits: number of examples of each split, in the order of writing.
    clicks: number of examples of each split whose first label is 1.
    labels: of each split, where there are several labels, the number of
      examples that have each label, and of those where it is 1.
    scale: mean and deviation of the dense features in split train.
    details: the set's account of its making: options, source files, counts.
    timelines: timeline of each split (see `manifest.Written`).
    files: number of files of each split.
    origin: digest of schema, sizes and details; every block is stamped with
      it.
    fingerprint: digest of the description without the sizes of files, as hex
      digits; sets with equal content have equal fingerprints.
  """

  directory: str
  schema: Schema
  splits: dict[str, int]
  clicks: dict[str, int]
  labels: dict[str, dict[str, list[int]]]
  scale: Scale
  details: dict[str, Any]
  timelines: dict[str, list[list[int]]]
  files: dict[str, int]
  origin: int
  fingerprint: str

  def source(self, split: str) -> _Blocks:
    """The blocks of a split, as a `Source`.

    Raises:
      InputError: no such split, or its files are damaged.
    """
    if split not in self.splits:
      raise InputError(
        f'{self.directory} has no split {split!r}; '
        f'it has {", ".join(self.splits)}'
      )
    return _Blocks(self, split)

  def counts(self, feature: str) -> np.ndarray | None:
    """Number of rows in split train that have each id, i64[R].

    See `count_pieces`.
    """
    pieces = self.count_pieces(feature)
    return None if pieces is None else np.concatenate(list(pieces))

  def count_pieces(self, feature: str) -> Iterator[np.ndarray] | None:
    """Number of rows in split train that have each id: i64[n], in pieces.

    Counts of ids before the first value's (unknown values) are not stored;
    they are given as the count of the first value.

    Returns:
      The pieces; None if the feature has no vocabulary or if its ids are not
      rows of the vocabulary (`multi_hot`, `num_embeddings`).
    """
    path = vocabulary_path(Path(self.directory), feature)
    log = self.details.get('format', {})
    mapped = log.get('multi_hot') or log.get('num_embeddings')
    if mapped or not path.exists():
      return None
    column = next(c for c in self.schema.sparse if c.name == feature)
    return _count_pieces(path, column.rows)


_PIECE = 1 << 22  # Counts that are read at a time.


def _count_pieces(path: Path, rows: int) -> Iterator[np.ndarray]:
  """Counts of all rows of a table; those before the vocabulary come first."""
  try:
    column = pl.scan_parquet(path, glob=False).select('count')
    known = column.select(pl.len()).collect().item()
    for start in range(0, known, _PIECE):
      piece = column.slice(start, _PIECE).collect()['count'].to_numpy()
      if not start:
        yield np.full(rows - known, piece[0], np.int64)
      yield piece.astype(np.int64)
  except (OSError, pl.exceptions.PolarsError) as error:
    raise _broken(path, error) from error
  if not known:
    yield np.zeros(rows, np.int64)


def _broken(what: object, why: object) -> InputError:
  why = str(why).splitlines()[0] if str(why) else 'unreadable'
  return InputError(f'{what}: damaged ({why[:200]}); prepare it again')


def open_prepared(directory: str | os.PathLike[str]) -> Prepared:
  """Opens a prepared set, reading only its description.

  Raises:
    InputError: the folder has no prepared set, or a damaged one.
  """
  folder = Path(directory)
  try:
    text = (folder / MARK).read_text()
  except OSError:
    raise InputError(
      f'{directory} is not a prepared set (no {MARK} in it); make one '
      'with `python -m dlrm_jax.prepare`'
    ) from None
  try:
    metadata = json.loads(text)
    if metadata['format'] != FORMAT:
      raise ValueError(f'format {metadata["format"]}, not {FORMAT}')
    schema = Schema.from_json(metadata['schema'])
    splits = metadata['splits']
    prepared = Prepared(
      directory=str(folder),
      schema=schema,
      splits={k: v['examples'] for k, v in splits.items()},
      clicks={k: v['clicks'] for k, v in splits.items()},
      labels={k: v.get('labels', {}) for k, v in splits.items()},
      scale=Scale(**{k: tuple(v) for k, v in metadata['scale'].items()}),
      details=metadata['details'],
      timelines={k: v['timeline'] for k, v in splits.items()},
      files={k: len(v) for k, v in metadata['files'].items()},
      origin=metadata['origin'],
      fingerprint=_fingerprint(metadata),
    )
    sizes = metadata['files']
    if manifest_digest(metadata) != metadata['digest']:
      raise ValueError(f'{MARK} contradicts itself')
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise _broken(folder, error) from error
  _check_tfds(folder, metadata['tfds'])
  _check_files(folder, sizes)
  return prepared


def _check_tfds(folder: Path, digests: Mapping[str, str]) -> None:
  """Compares the files that TFDS reads with their noted digests."""
  for name in TFDS_FILES:
    path = folder / name
    if not path.exists():
      raise _broken(path, 'the file is missing')
    if file_digest(path) != digests[name]:
      raise _broken(path, f'not as it was written, says {MARK}')


def _fingerprint(metadata: Mapping[str, Any]) -> str:
  # Sizes of files depend on the versions of libraries.
  content = {
    k: v for k, v in metadata.items() if k not in ('files', 'tfds', 'digest')
  }
  digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
  return digest.hexdigest()[:16]


def _check_files(folder: Path, sizes: Mapping[str, Sequence[int]]) -> None:
  """Compares the files with their noted sizes."""
  there = {entry.name: entry for entry in os.scandir(folder)}
  for split, expected in sizes.items():
    for path, size in zip(
      shard_paths(folder, split, expected), expected, strict=True
    ):
      if path.name not in there:
        raise _broken(path, 'the file is missing')
      found = there[path.name].stat().st_size
      if found != size:
        raise _broken(path, f'{found:,} bytes; expected {size:,}')
