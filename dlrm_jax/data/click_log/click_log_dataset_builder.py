"""A click log as a TFDS data set: one record is one block of examples.

TFDS describes and stores (features, splits, metadata, array_record shards);
it never sees a single example, which is what makes it fast: thousands of rows
a record. `ShardBasedBuilder` and not `GeneratorBasedBuilder`, because the
latter gathers a whole split in memory and, from 1 GB on, needs TensorFlow.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import writer as tfds_writer

from dlrm_jax.data.schema import Block, Schema

SHARD_BLOCKS = 256
"""Blocks in a file: what TFDS holds in memory while it writes."""


class _Writer(tfds_writer.ExampleWriter):
  """Compresses fast: as small as TFDS's setting here, in half the time."""

  def write(self, path: Any, examples: Iterable[Any]) -> None:
    writer = array_record_module.ArrayRecordWriter(
      os.fspath(path), 'group_size:1,zstd:1'
    )
    for _, record in examples:
      writer.write(record)
    writer.close()


class _Counted:
  """Counts the examples of a split and measures its dense features."""

  def __init__(self, dense: int) -> None:
    self._examples = self._clicks = 0
    self._sum, self._squares = np.zeros(dense), np.zeros(dense)

  def add(self, block: Block) -> None:
    self._examples += len(block.labels)
    self._clicks += int(block.labels.sum())
    dense = block.dense.astype(np.float64)
    self._sum += dense.sum(0)
    self._squares += np.square(dense).sum(0)

  def summary(self) -> dict[str, Any]:
    mean = self._sum / self._examples
    variance = np.maximum(self._squares / self._examples - mean**2, 0)
    return {
      'examples': self._examples,
      'clicks': self._clicks,
      'dense_mean': mean.tolist(),
      'dense_std': np.sqrt(variance).tolist(),
    }


class Builder(tfds.core.ShardBasedBuilder):
  """Writes given blocks, in the given order."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(
    self,
    *,
    data_dir: str,
    schema: Schema,
    weighted: bool,
    splits: Mapping[str, tuple[int, Callable[[], Iterable[Block]]]],
    metadata: Mapping[str, Any],
  ) -> None:
    """Plans a data set; `download_and_prepare` writes it.

    Args:
      data_dir: folder that becomes TFDS's data directory.
      schema: the columns.
      weighted: whether blocks have id weights.
      splits: a split's number of blocks, and what makes them.
      metadata: kept as JSON in the set's folder; examples, clicks and what
        the dense features are like are added to each of its 'splits'.
    """
    self._schema = schema
    self._weighted = weighted
    self._splits = splits
    self._metadata = metadata
    super().__init__(data_dir=data_dir, file_format='array_record')

  def _info(self) -> tfds.core.DatasetInfo:
    array = functools.partial(tfds.features.Tensor, encoding='bytes')
    features = {
      'ids': array(shape=(None, self._schema.hotness), dtype=np.int32),
      'labels': array(shape=(None,), dtype=np.float32),
    }
    if dense := len(self._schema.dense):  # TFDS reads no array of width 0
      features['dense'] = array(shape=(None, dense), dtype=np.float32)
    if self._weighted:
      features['id_weights'] = array(
        shape=(None, self._schema.hotness), dtype=np.float32
      )
    return tfds.core.DatasetInfo(
      builder=self,
      description='A click log in blocks of consecutive examples.',
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(self._metadata),
      disable_shuffling=True,
    )

  def _shard_iterators_per_split(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict]]]]]:
    del dl_manager  # nothing is downloaded
    return {name: self._shards(name) for name in self._splits}

  def _example_writer(self) -> _Writer:
    return _Writer(self.info.file_format)

  def _shards(
    self, split: str
  ) -> list[Callable[[], Iterator[tuple[int, dict]]]]:
    """Cuts one pass over the blocks in shards, which TFDS writes in order."""
    count, _ = self._splits[split]
    records = self._records(split)
    shard = functools.partial(itertools.islice, records, SHARD_BLOCKS)
    return [shard] * -(-count // SHARD_BLOCKS)

  def _records(self, split: str) -> Iterator[tuple[int, dict]]:
    _, blocks = self._splits[split]
    counted = _Counted(len(self._schema.dense))
    for number, block in enumerate(blocks()):
      counted.add(block)
      self.info.metadata['splits'][split].update(counted.summary())
      fields = block._asdict()
      yield number, {name: fields[name] for name in self.info.features}
