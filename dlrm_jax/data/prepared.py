"""A prepared click log on disk: written once, opened fast, read by block.

The folder is a TFDS data set (dataset_info.json, features.json, metadata.json
and array_record files, see `click_log`), plus what its maker adds, such as
vocabularies. It appears under its name only when it is complete.

    with creating('out') as folder:
      write(folder, schema, {'train': Split(n, blocks)}, details={...})
    prepared = open_prepared('out')
    prepared.source('train')[0]  # Block
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dlrm_jax.data.folder import MARK
from dlrm_jax.data.folder import creating as creating  # belongs to `write`
from dlrm_jax.data.rebatch import rebatch
from dlrm_jax.data.schema import (
  BLOCK_ROWS,
  Block,
  Column,
  Scale,
  Schema,
)
from dlrm_jax.data.vocabulary import FOLDER
from dlrm_jax.errors import InputError

_FORMAT = 1


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
  # TensorFlow Datasets takes longer to import than a set takes to open.
  import tensorflow_datasets as tfds

  from dlrm_jax.data.click_log.click_log_dataset_builder import Builder

  metadata = {
    'format': _FORMAT,
    'schema': dataclasses.asdict(schema),
    'splits': {
      name: {'examples': split.examples} for name, split in splits.items()
    },
    'details': dict(details),
  }
  work = folder / 'tfds'
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(io.StringIO()):  # TFDS's chatter
    builder = Builder(
      data_dir=str(work),
      schema=schema,
      weighted=weighted,
      splits={
        name: (-(-split.examples // BLOCK_ROWS), _rebatched(split))
        for name, split in splits.items()
      },
      metadata=metadata,
    )
    builder.download_and_prepare()
  for path in Path(builder.data_dir).iterdir():
    path.rename(folder / path.name)
  shutil.rmtree(work)


def _rebatched(split: Split) -> Callable[[], Iterable[Block]]:
  return lambda: rebatch(split.blocks())


class _Blocks:
  """The blocks of a split; a `Source`."""

  def __init__(self, prepared: 'Prepared', split: str) -> None:
    import tensorflow_datasets as tfds

    self.schema = prepared.schema
    self.examples = prepared.splits[split]
    self._name = f'{prepared.directory}, split {split}'
    try:
      builder: Any = tfds.builder_from_directory(prepared.directory)
      self._records: Sequence[dict[str, Any]] = builder.as_data_source(split)
      found = len(self._records)
    except (OSError, ValueError, RuntimeError) as error:
      raise _broken(self._name, error) from error
    if found != -(-self.examples // BLOCK_ROWS):
      raise _broken(self._name, f'{found} blocks')

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, block: int) -> Block:
    if not 0 <= block < len(self):
      raise IndexError(f'{self._name} has {len(self)} blocks, not {block}')
    try:
      record = self._records[block]
      labels = record['labels']
      dense = (
        record['dense']
        if self.schema.dense
        else np.empty((len(labels), 0), np.float32)
      )
      return Block(dense, record['ids'], labels, record.get('id_weights'))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
      raise _broken(f'{self._name}, block {block}', error) from error


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A prepared set on disk.

  Attributes:
    directory: its folder.
    schema: the columns.
    splits: examples a split, in the order of writing.
    clicks: examples with label 1 a split.
    scale: of the dense features in split train.
    details: what its maker said of it: options, source files, counts.
    fingerprint: short digest of schema, splits and details: equal for two sets
      with the same content.
  """

  directory: str
  schema: Schema
  splits: dict[str, int]
  clicks: dict[str, int]
  scale: Scale
  details: dict[str, Any]
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
    """How often split train has each id, i64[R]; None without a vocabulary.

    The unknown row, whose count is not kept, counts as the most frequent.
    """
    path = Path(self.directory) / FOLDER / f'{feature}.parquet'
    if not path.exists():
      return None
    try:
      known = pl.read_parquet(path, columns=['count'])['count'].to_numpy()
    except (OSError, pl.exceptions.PolarsError) as error:
      raise _broken(path, error) from error
    unknown = [known.max(initial=0)]
    return np.concatenate([unknown, known]).astype(np.int64)


def _broken(what: object, why: object) -> InputError:
  why = str(why).splitlines()[0] if str(why) else 'unreadable'
  return InputError(f'{what}: damaged ({why[:200]}); prepare it again')


def open_prepared(directory: str | os.PathLike[str]) -> Prepared:
  """Opens a prepared set; reads its description only.

  Raises:
    InputError: no prepared set there, or an incomplete one.
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
    if metadata['format'] != _FORMAT:
      raise ValueError(f'format {metadata["format"]}, not {_FORMAT}')
    schema = Schema(
      tuple(metadata['schema']['dense']),
      tuple(Column(**column) for column in metadata['schema']['sparse']),
    )
    splits = {k: v['examples'] for k, v in metadata['splits'].items()}
    clicks = {k: v['clicks'] for k, v in metadata['splits'].items()}
    train = metadata['splits']['train']
    scale = Scale(tuple(train['dense_mean']), tuple(train['dense_std']))
    details = metadata['details']
    _check_files(folder, set(splits))
  except (ValueError, KeyError, TypeError, OSError) as error:
    raise _broken(folder, error) from error
  digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
  return Prepared(
    directory=str(folder),
    schema=schema,
    splits=splits,
    clicks=clicks,
    scale=scale,
    details=details,
    fingerprint=digest.hexdigest()[:16],
  )


def _check_files(folder: Path, splits: set[str]) -> None:
  """Compares the files' sizes with what TFDS noted when it wrote them."""
  info = json.loads((folder / 'dataset_info.json').read_text())
  found = {split['name'] for split in info['splits']}
  if found != splits:
    raise ValueError(f'splits {sorted(found)}, expected {sorted(splits)}')
  for split in info['splits']:
    files = list(folder.glob(f'*-{split["name"]}.array_record-*'))
    size = sum(file.stat().st_size for file in files)
    if size != int(split['numBytes']):
      raise ValueError(
        f'{size} bytes of split {split["name"]}, expected {split["numBytes"]}'
      )
