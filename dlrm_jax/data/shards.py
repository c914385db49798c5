"""The files of a prepared set: blocks as records of a TFDS data set.

A record is a block of examples, so TFDS describes and stores examples without
handling single ones. Every record is stamped with the set that it belongs to
and its number, so files of another set or in a wrong place are found when
they are read. array_record finds changed bytes.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.data.records import Fields, unpack
from dlrm_jax.data.schema import BLOCK_ROWS, Block
from dlrm_jax.files import replacing

SHARD_BYTES = 128 << 20
"""Approximate bytes of the examples in a file, before compression."""

_OPTIONS = 'group_size:1,zstd:1'
_NAME = 'click_log'


class Stamp(NamedTuple):
  """The identity of a record.

  Attributes:
    origin: digest of the content of the set.
    split: digest of the split's name.
    block: number of the block in the split.
  """

  origin: int
  split: int
  block: int


def shard_blocks(fields: Fields) -> int:
  """Number of blocks in a file, for examples with these fields."""
  return max(1, SHARD_BYTES // (4 * fields.width * BLOCK_ROWS))


def shard_name(split: str, number: int, count: int) -> str:
  """Name of a file, as TFDS requires."""
  return f'{_NAME}-{split}.array_record-{number:05}-of-{count:05}'


def _label_shape(fields: Fields) -> tuple[int | None, ...]:
  """Stored shape of the labels; a single one has no axis of its own."""
  return (None,) if fields.labels == 1 else (None, fields.labels)


def _features(fields: Fields) -> Any:
  import tensorflow_datasets as tfds

  array = functools.partial(tfds.features.Tensor, encoding='bytes')
  features: dict[str, Any] = {
    'ids': array(shape=(None, fields.hotness), dtype=np.int32),
    'labels': array(shape=_label_shape(fields), dtype=np.float32),
    'stamp': tfds.features.Tensor(shape=(3,), dtype=np.int64),
  }
  if fields.dense:  # TFDS cannot read arrays of width 0.
    features['dense'] = array(shape=(None, fields.dense), dtype=np.float32)
  if fields.id_weights:
    features['id_weights'] = array(
      shape=(None, fields.hotness), dtype=np.float32
    )
  if fields.weights:
    features['weights'] = array(shape=(None,), dtype=np.float32)
  if fields.group:
    features['group'] = array(shape=(None,), dtype=np.int32)
  return tfds.features.FeaturesDict(features)


def _serializer(features: Any) -> Callable[[Mapping[str, Any]], bytes]:
  """TFDS's `serialize_example`, but with equal bytes in every run."""
  from tensorflow_datasets.core import example_serializer

  serializer = example_serializer.ExampleSerializer(
    features.get_serialized_info()
  )

  def serialize(example: Mapping[str, Any]) -> bytes:
    proto: Any = serializer.get_tf_example(features.encode_example(example))
    return proto.SerializeToString(deterministic=True)

  return serialize


def write_shard(
  path: Path, fields: Fields, blocks: Iterable[Block], first: Stamp
) -> None:
  """Writes one file, under a temporary name until it is whole.

  Args:
    path: the file.
    fields: fields of an example.
    blocks: blocks of `BLOCK_ROWS` examples; the last one may be shorter.
    first: stamp of the first block.
  """
  # What scores reads descriptions of sets, and no blocks.
  from array_record.python import array_record_module

  features = _features(fields)
  serialized = _serializer(features)
  with replacing(path) as work:
    writer = array_record_module.ArrayRecordWriter(os.fspath(work), _OPTIONS)
    for number, block in enumerate(blocks, first.block):
      if fields.labels == 1:
        block = block._replace(labels=block.labels[:, 0])
      arrays = {k: v for k, v in block._asdict().items() if k in features}
      stamp = np.array(first._replace(block=number), np.int64)
      writer.write(serialized({**arrays, 'stamp': stamp}))
    writer.close()


def is_whole(path: Path, blocks: int) -> bool:
  """Whether a file can be read and has `blocks` blocks."""
  from array_record.python import array_record_module

  try:
    reader = array_record_module.ArrayRecordReader(os.fspath(path))
    records = reader.num_records()
    reader.close()
  except (OSError, ValueError, RuntimeError):
    return False
  return records == blocks


def blocks_of(
  fields: Fields, rows: np.ndarray, order: np.ndarray
) -> Iterator[Block]:
  """Packed rows i32[n, W] -> blocks, in the order of the row numbers i64[n]."""
  for start in range(0, len(rows), BLOCK_ROWS):
    yield unpack(fields, rows[order[start : start + BLOCK_ROWS]])


def write_tfds_metadata(
  folder: Path, fields: Fields, splits: Mapping[str, Sequence[int]]
) -> None:
  """Writes the files that TFDS needs to read a folder of shards.

  Args:
    folder: folder of the shards.
    fields: fields of an example.
    splits: number of blocks of each file, by split.
  """
  import tensorflow_datasets as tfds

  template = tfds.core.ShardedFileTemplate(
    data_dir=folder, dataset_name=_NAME, filetype_suffix='array_record'
  )
  infos = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=list(lengths),
      num_bytes=sum(
        (folder / shard_name(split, number, len(lengths))).stat().st_size
        for number in range(len(lengths))
      ),
      filename_template=template.replace(split=split),
    )
    for split, lengths in splits.items()
  ]
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=_features(fields),
    split_infos=infos,
    version='2.0.0',
    filename_template=template,
    check_data=False,
    description='A click log in blocks of consecutive examples.',
    disable_shuffling=True,
  )
