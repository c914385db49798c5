"""Prepared sets: from blocks that a test has made up, from Criteo logs."""

import numpy as np

from dlrm_jax.data import manifest, shards
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.rebatch import rebatch
from dlrm_jax.data.records import Fields
from dlrm_jax.prepare.criteo.settings import CriteoSettings, criteo_preparation
from dlrm_jax.prepare.pipeline import prepare_set
from dlrm_jax.prepare.resources import default_memory


def write_set(folder, schema, splits, details=None):
  """Writes a set whose splits are one block each, by name; opens it."""
  details = details or {'kind': 'test'}
  weighted = any(block.id_weights is not None for block in splits.values())
  fields = Fields.of(schema, id_weights=weighted)
  rows = {name: len(block.labels) for name, block in splits.items()}
  origin = manifest.origin_of(schema, rows, details)
  folder.mkdir()
  for name, block in splits.items():
    blocks, first = list(rebatch([block])), 0
    lengths = manifest.shard_lengths(fields, rows[name])
    for path, length in zip(
      manifest.shard_paths(folder, name, lengths), lengths, strict=True
    ):
      stamp = shards.Stamp(origin, manifest.split_stamp(name), first)
      part = blocks[first : first + length]
      shards.write_shard(path, fields, part, stamp)
      first += length
  written = {
    name: manifest.Written(
      rows[name],
      int(np.nansum(block.labels[:, 0])),
      [[rows[name], 0]],
      _counts(schema, block),
    )
    for name, block in splits.items()
  }
  dense = splits['train'].dense.astype(np.float64)
  scale = manifest.scale_of(
    rows['train'], dense.sum(0), np.square(dense).sum(0)
  )
  manifest.write_manifest(folder, schema, fields, written, scale, details)
  return open_prepared(folder)


def _counts(schema, block):
  """Of each of several labels: examples that have it, and where it is 1."""
  if len(schema.labels) == 1:
    return {}
  return {
    name: [int((~np.isnan(x)).sum()), int(np.nansum(x))]
    for name, x in zip(schema.labels, block.labels.T, strict=True)
  }


def prepare_criteo(inputs, output, settings=None):
  """Prepares Criteo logs, as the command does; opens the set."""
  preparation = criteo_preparation(inputs, settings or CriteoSettings())
  prepare_set(preparation, output, default_memory())
  return open_prepared(output)
