"""Raw logs with the ids of a prepared set: prepared, or read as blocks."""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from dlrm_jax.data.lists import IMPLICIT
from dlrm_jax.data.prepared import Prepared
from dlrm_jax.data.rebatch import rebatch
from dlrm_jax.data.schema import Block
from dlrm_jax.errors import InputError
from dlrm_jax.prepare import units
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.criteo.criteo_reader import CriteoReader
from dlrm_jax.prepare.fitting import fit_of, fitting
from dlrm_jax.prepare.movielens import earlier, movielens_reader
from dlrm_jax.prepare.preparation import (
  Preparation,
  Settings,
  preparation_of,
)
from dlrm_jax.prepare.readers.formats import files_of, reader_of
from dlrm_jax.prepare.readers.reader import Reader
from dlrm_jax.prepare.resources import default_memory, divided
from dlrm_jax.prepare.stages.encode import encode_frame
from dlrm_jax.prepare.stages.multi_hot import with_bags
from dlrm_jax.prepare.stages.number import coders_without_tables, numbering_of
from dlrm_jax.prepare.stages.tables import with_tables
from dlrm_jax.vocabulary.coder import Coder, closed_of
from dlrm_jax.vocabulary.columns import Columns
from dlrm_jax.vocabulary.policy import STOP


def reader_of_set(prepared: Prepared) -> Reader:
  """The reader of the raw files of a set.

  Raises:
    InputError: the set was not prepared from raw files.
  """
  if 'format' not in prepared.details:
    raise InputError(
      f'{prepared.directory} was prepared from {prepared.details.get("kind")}, '
      'so a raw log does not fit it'
    )
  description = prepared.details['format']
  if description['format'] == IMPLICIT:
    raise InputError(
      f'{prepared.directory} has users and their items, whose raw files are '
      'lists to rank: `python -m dlrm_jax.evaluate` ranks them with '
      '--candidates=FILE or --candidates=catalogue'
    )
  return reader_of_format(description)


def reader_of_format(description: Mapping[str, Any]) -> Reader:
  """The reader of raw files, from the description that a set keeps."""
  description = dict(description)
  if description['format'] == movielens_reader.FORMAT:
    return movielens_reader.movielens_reader(description)
  if description['format'] != 'criteo':
    return reader_of(description)
  del description['format']
  for name in ('multi_hot', 'num_embeddings'):  # JSON has no tuples.
    description[name] = tuple(description.get(name, ()))
  return CriteoReader(**description)


def preparation_with(
  prepared: Prepared,
  inputs: Mapping[str, Sequence[str]],
  settings: Settings,
  out_of_range: str = STOP,
) -> Preparation:
  """A preparation that uses the vocabularies of a set.

  Args:
    prepared: a set prepared from raw files.
    inputs: raw files of the same format by split, or those of one part, which
      `settings.splits` cuts.
    settings: the settings, whose numbering is replaced by that of the set.
    out_of_range: 'stop', or 'unknown': a value without a row gets row 0.

  Raises:
    InputError: the set is of another kind, or a file is wrong.
  """
  numbering = numbering_of(prepared.details)
  return preparation_of(
    reader_of_set(prepared),
    inputs,
    dataclasses.replace(settings, numbering=numbering),
    prepared.details['format'],
    prepared,
    out_of_range,
  )


def coders_of(
  prepared: Prepared, columns: Columns, work: Path, out_of_range: str
) -> tuple[Coder, ...]:
  """The coders of a set; their lookup tables are built in `work`.

  Raises:
    InputError: a vocabulary is damaged.
  """
  counted = prepared.details['columns']
  coders = coders_without_tables(
    columns,
    counted,
    {column.name: column.hotness for column in prepared.schema.sparse},
    numbering_of(prepared.details).values,
  )
  coders = tuple(
    dataclasses.replace(coder, out_of_range=out_of_range) for coder in coders
  )
  resources = divided(max(default_memory(), 2 << 30), 0)
  folder = Path(prepared.directory)
  try:
    coders, _ = with_tables(
      units.in_process, work, folder, coders, counted, resources
    )
  except (OSError, pl.exceptions.PolarsError) as error:
    raise InputError(
      f'{folder}: damaged vocabulary ({str(error).splitlines()[0]}); prepare '
      'the set again'
    ) from error
  return with_bags(units.in_process, work, coders)


def read_raw(
  prepared: Prepared,
  files: Sequence[str],
  on_bad_row: str = 'stop',
  bad: BadRows | None = None,
  out_of_range: str = STOP,
) -> Iterator[Block]:
  """Reads raw files with the vocabularies of a set; writes nothing.

  Values that the training rows do not have get the row of unknown values. Of
  a bag that is longer than all training bags, the first ids are kept.

  Args:
    prepared: a set prepared from raw files of the same format.
    files: raw files, folders of them, or globs.
    on_bad_row: 'stop' or 'skip'.
    bad: counter of bad rows, for a report; None: a new one.
    out_of_range: 'stop', or 'unknown': a value without a row gets row 0.

  Yields:
    Blocks of `BLOCK_ROWS` examples; the last one may be shorter.

  Raises:
    InputError: the set is of another kind, or a file or a row is wrong.
  """
  details = prepared.details
  if details['kind'] == movielens_reader.FORMAT and 'format' not in details:
    prepared = earlier.with_details(prepared)
  reader = reader_of_set(prepared)
  files = files_of(prepared.details['format']['format'], files)
  pieces = [piece for name in files for piece in reader.pieces(name)]
  bad = bad or BadRows(on_bad_row)
  with tempfile.TemporaryDirectory() as work:
    coders = coders_of(prepared, reader.columns, Path(work), out_of_range)
    fit = fit_of(
      reader.columns, prepared.schema, closed_of(coders), out_of_range
    )
    frames = (
      frame
      for piece in pieces
      for frame in fitting(reader, piece, bad, lambda data: None, fit)
    )
    yield from rebatch(
      encode_frame(reader.columns, coders, frame) for frame in frames
    )
