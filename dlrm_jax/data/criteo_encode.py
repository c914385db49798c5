"""Criteo rows -> blocks: integers to logarithms, categories to table rows."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from dlrm_jax.data.criteo_rows import DENSE, SPARSE
from dlrm_jax.data.prepared import Prepared
from dlrm_jax.data.schema import Block, Column, Schema
from dlrm_jax.data.vocabulary import FOLDER, Encoder, Hashing, Vocabulary
from dlrm_jax.errors import InputError

TRANSFORM = 'log(max(x, 0) + 1), missing = 0'
HASH = 'splitmix64(value, or 2^32 where missing) mod rows'


def encode(frame: pl.DataFrame, encoders: Mapping[str, Encoder]) -> Block:
  """A frame of n good rows -> a block of n examples."""
  # In float64, then rounded once: as a table of logarithms would be.
  dense = frame.select(
    pl.col(DENSE).fill_null(0).clip(0).cast(pl.Float64).log1p().cast(pl.Float32)
  )
  ids = np.empty((frame.height, len(SPARSE)), np.int32)
  for number, name in enumerate(SPARSE):
    ids[:, number] = encoders[name].lookup(frame[name])
  return Block(
    dense.to_numpy(order='c'), ids, frame['label'].cast(pl.Float32).to_numpy()
  )


def schema_of(encoders: Mapping[str, Encoder]) -> Schema:
  """The columns of what `encode` makes."""
  return Schema(DENSE, tuple(Column(c, encoders[c].rows) for c in SPARSE))


def digest(encoders: Mapping[str, Encoder]) -> str:
  """Equal where equal values get equal rows."""
  result = hashlib.sha256()
  for name, encoder in encoders.items():
    result.update(f'{name} {encoder.rows} '.encode())
    if isinstance(encoder, Vocabulary):
      keys = encoder.counts['key'].cast(pl.Int64).fill_null(-1)
      result.update(keys.to_numpy().tobytes())
  return result.hexdigest()[:16]


def save_encoders(folder: Path, encoders: Mapping[str, Encoder]) -> None:
  """Keeps vocabularies in a prepared set's folder; hashing needs nothing."""
  for name, encoder in encoders.items():
    if isinstance(encoder, Vocabulary):
      (folder / FOLDER).mkdir(exist_ok=True)
      encoder.save(folder / FOLDER / f'{name}.parquet')


def load_vocabularies(
  prepared: Prepared, columns: Iterable[str]
) -> dict[str, Vocabulary]:
  """What `save_encoders` kept in a prepared set.

  Raises:
    InputError: a vocabulary is missing or damaged.
  """
  folder = Path(prepared.directory) / FOLDER
  try:
    return {c: Vocabulary.load(folder / f'{c}.parquet') for c in columns}
  except (OSError, pl.exceptions.PolarsError) as error:
    raise InputError(
      f'{folder}: damaged ({str(error).splitlines()[0]}); prepare the set again'
    ) from error


def load_encoders(prepared: Prepared) -> dict[str, Encoder]:
  """The encoders that a set was prepared with.

  Raises:
    InputError: it is no Criteo set, or its vocabularies are damaged.
  """
  if prepared.details.get('kind') != 'criteo':
    raise InputError(
      f'{prepared.directory} was prepared from {prepared.details.get("kind")}, '
      'so a raw Criteo log does not fit it'
    )
  if prepared.details['hash_rows']:
    return dict.fromkeys(SPARSE, Hashing(prepared.details['hash_rows']))
  encoders: dict[str, Encoder] = {**load_vocabularies(prepared, SPARSE)}
  if schema_of(encoders) != prepared.schema:
    raise InputError(
      f'{prepared.directory}: the vocabularies do not fit the set; prepare it '
      'again'
    )
  return encoders
