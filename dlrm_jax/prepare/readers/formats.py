"""`config.data.raw` -> the reader of its format."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from dlrm_jax.prepare.inputs import expanded
from dlrm_jax.prepare.readers.array_logs import OPEN, is_log
from dlrm_jax.prepare.readers.arrays_reader import (
  fb_reader,
  sized,
  torchrec_reader,
)
from dlrm_jax.prepare.readers.csv_reader import csv_reader
from dlrm_jax.prepare.readers.libsvm_reader import libsvm_reader
from dlrm_jax.prepare.readers.parquet_reader import parquet_reader
from dlrm_jax.prepare.readers.reader import Reader
from dlrm_jax.prepare.readers.tfds_reader import tfds_reader
from dlrm_jax.prepare.values.checks import FIELD, one_of
from dlrm_jax.prepare.values.raw_schema import schema_of

_FORMATS: dict[str, Callable[[Mapping[str, Any]], Reader]] = {
  'csv': csv_reader,
  'parquet': parquet_reader,
  'libsvm': libsvm_reader,
  'libffm': libsvm_reader,
  'fb_npz': fb_reader,
  'fb_bin': fb_reader,
  'torchrec_npy': torchrec_reader,
  'tfds': tfds_reader,
}
_SIZED = ('fb_npz', 'fb_bin')


def with_table_sizes(
  raw: Mapping[str, Any], files: Sequence[str]
) -> dict[str, Any]:
  """A config with the table sizes, which fb_npz and fb_bin keep in files.

  Raises:
    InputError: the files do not have the sizes, or the config is wrong.
  """
  return sized(raw, files) if raw.get('format') in _SIZED else dict(raw)


def files_of(kind: str, names: Sequence[str]) -> list[str]:
  """The files of an input, in order; expands folders and globs.

  Args:
    kind: the format.
    names: files, folders and globs; for TFDS, names of data sets.

  Raises:
    InputError: a folder or a glob has no files.
  """
  if kind == 'tfds':
    return list(names)
  if kind in OPEN:
    return expanded(names, functools.partial(is_log, kind))
  return expanded(names)


def feature_kinds(raw: Mapping[str, Any]) -> dict[str, str]:
  """Kind of the values of each sparse feature, for formats with a schema."""
  schema = schema_of(raw, separated=raw['format'] == 'csv')
  return {source.feature.name: source.values for source in schema.sparse}


def reader_of(raw: Mapping[str, Any] | ConfigDict) -> Reader:
  """The reader that a config describes; see `raw_schema` for its keys.

  Raises:
    InputError: a key is missing, unknown or of a wrong value.
  """
  fields = raw.to_dict() if isinstance(raw, ConfigDict) else dict(raw)
  kind = one_of(f'{FIELD}.format', fields.get('format'), _FORMATS)
  return _FORMATS[kind](fields)
