"""Raw logs in the vocabularies of a prepared set, nothing written."""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from dlrm_jax.data.prepared import Prepared
from dlrm_jax.data.rebatch import rebatch
from dlrm_jax.data.schema import Block
from dlrm_jax.errors import InputError
from dlrm_jax.prepare import units
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.budget import budget, default_memory
from dlrm_jax.prepare.criteo.criteo_reader import CriteoReader
from dlrm_jax.prepare.fitting import fit_of, fitting
from dlrm_jax.prepare.movielens import earlier, movielens_reader
from dlrm_jax.prepare.pipeline import Job, Options, job_of
from dlrm_jax.prepare.readers.formats import files_of
from dlrm_jax.prepare.readers.formats import reader_of as reader_of_raw
from dlrm_jax.prepare.readers.reader import Reader
from dlrm_jax.prepare.stages import number
from dlrm_jax.prepare.stages.mix import encode_frame
from dlrm_jax.prepare.stages.multi_hot import with_bags
from dlrm_jax.vocabulary.coder import Coder, closed_of
from dlrm_jax.vocabulary.policy import STOP


def reader_of(prepared: Prepared) -> Reader:
  """The reader of the logs that a set was made of.

  Raises:
    InputError: it was not made of raw logs.
  """
  if 'format' not in prepared.details:
    raise InputError(
      f'{prepared.directory} was prepared from {prepared.details.get("kind")}, '
      'so a raw log does not fit it'
    )
  said = dict(prepared.details['format'])
  if said['format'] == movielens_reader.FORMAT:
    return movielens_reader.movielens_reader(said)
  if said['format'] != 'criteo':
    return reader_of_raw(said)
  del said['format']
  for name in ('multi_hot', 'num_embeddings'):  # JSON has no tuples
    said[name] = tuple(said.get(name, ()))
  return CriteoReader(**said)


def job(
  prepared: Prepared,
  inputs: Mapping[str, Sequence[str]],
  options: Options,
  out_of_range: str = STOP,
) -> Job:
  """What is to be done to prepare files with the ids of a set.

  Args:
    prepared: a set made of raw logs; its vocabularies are used.
    inputs: raw logs of the same format by split, or of one part that is cut
      by `options.splits`.
    options: of rows; how values are numbered is taken from the set.
    out_of_range: 'stop', or 'unknown': a value without a row gets row 0.

  Raises:
    InputError: the set is of another kind, or a file is wrong.
  """
  numbering = number.numbering_of(prepared.details)
  return job_of(
    reader_of(prepared),
    inputs,
    dataclasses.replace(options, numbering=numbering),
    prepared.details['format'],
    prepared,
    out_of_range,
  )


def coders_of(
  prepared: Prepared, work: Path, out_of_range: str = STOP
) -> tuple[Coder, ...]:
  """How the values of a set's columns became rows.

  Args:
    prepared: a set made of raw logs.
    work: folder for lookup tables.
    out_of_range: 'stop', or 'unknown': a value without a row gets row 0.

  Raises:
    InputError: its vocabularies are damaged.
  """
  details = prepared.details
  values = number.numbering_of(details).values
  hotness = {c.name: c.hotness for c in prepared.schema.sparse}
  coders = number.coders_of(
    reader_of(prepared).columns, details['columns'], hotness, values
  )
  coders = tuple(
    dataclasses.replace(coder, out_of_range=out_of_range) for coder in coders
  )
  share = budget(max(default_memory(), 2 << 30), 0)
  folder = Path(prepared.directory)
  try:
    coders, _ = number.with_tables(
      units.here, work, folder, coders, details['columns'], share
    )
  except (OSError, pl.exceptions.PolarsError) as error:
    raise InputError(
      f'{folder}: damaged vocabulary ({str(error).splitlines()[0]}); prepare '
      'the set again'
    ) from error
  return with_bags(units.here, work, coders)


def read_raw(
  prepared: Prepared,
  files: Sequence[str],
  on_bad_row: str = 'stop',
  bad: BadRows | None = None,
  out_of_range: str = STOP,
) -> Iterator[Block]:
  """Raw logs in the vocabularies of a prepared set.

  Values that its training rows do not have go to the row for unknown ones; of
  a bag that is longer than all of training, the first ids are kept.

  Args:
    prepared: a set made of logs of the same format.
    files: raw logs, folders of them, or globs.
    on_bad_row: 'stop' or 'skip'.
    bad: where to count bad rows, for who wants to report them.
    out_of_range: 'stop', or 'unknown': a value without a row gets row 0.

  Yields:
    Blocks of `BLOCK_ROWS` examples, but for the last.

  Raises:
    InputError: the set is of another kind, or a file or a row is wrong.
  """
  details = prepared.details
  if details['kind'] == movielens_reader.FORMAT and 'format' not in details:
    prepared = earlier.with_details(prepared)
  reader = reader_of(prepared)
  files = files_of(prepared.details['format']['format'], files)
  pieces = [piece for name in files for piece in reader.pieces(name)]
  bad = bad or BadRows(on_bad_row)
  with tempfile.TemporaryDirectory() as work:
    coders = coders_of(prepared, Path(work), out_of_range)
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
