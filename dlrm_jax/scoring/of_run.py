"""The intake of a run: from the prepared set that it was trained on."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from dlrm_jax.build.trained import (
  Trained,
  check_fits,
  check_there,
  out_of_range,
)
from dlrm_jax.data.folder import vocabulary_path
from dlrm_jax.data.lists import IMPLICIT
from dlrm_jax.data.prepared import Prepared, open_prepared
from dlrm_jax.data.schema import Schema
from dlrm_jax.data.unknown import unknown_rows
from dlrm_jax.prepare.implicit.implicit_set import COLUMNS
from dlrm_jax.prepare.known_ids import coders_of, reader_of_set
from dlrm_jax.prepare.movielens import earlier, movielens_reader
from dlrm_jax.prepare.values.raw_schema import (
  DenseSource,
  RawSchema,
  SparseSource,
  schema_of,
)
from dlrm_jax.scoring.intake import Intake
from dlrm_jax.vocabulary.coder import Coder, Values
from dlrm_jax.vocabulary.columns import Columns, Dense, Sparse

_SEPARATOR = '|'  # of bags that are text


def intake_of_run(run: Trained, work: Path) -> Intake:
  """The intake of a run.

  Args:
    run: the run; its prepared set must be where it was.
    work: a folder for the lookup tables of the vocabularies.

  Raises:
    InputError: the set is gone, or another one.
  """
  if run.set_folder is None:
    return _of_rows(run)
  check_there(run, 'put it back: raw values need its vocabularies')
  prepared = open_prepared(run.set_folder)
  check_fits(prepared, run.known_data)
  details = prepared.details
  if details['kind'] == movielens_reader.FORMAT and 'format' not in details:
    prepared = earlier.with_details(prepared)
  columns = COLUMNS
  if prepared.details['kind'] != IMPLICIT:
    columns = reader_of_set(prepared).columns
  coders = coders_of(prepared, columns, work, out_of_range(run))
  folder = Path(prepared.directory)
  paths = {c.name: vocabulary_path(folder, c.name) for c in columns.sparse}
  return Intake(
    schema_of_set(prepared, columns),
    coders,
    out_of_range(run),
    prepared.details['format'],
    {name: path for name, path in paths.items() if path.exists()},
    unknown_rows(prepared),
  )


def _of_rows(run: Trained) -> Intake:
  """The intake of a run without raw values: ids are rows already."""
  schema = Schema.from_json(run.data)
  columns = Columns(
    tuple(map(Dense, schema.dense)),
    tuple(
      # Of a bag all ids are read, so that those that are cut off are counted.
      Sparse(c.name, 'rows', c.rows, int(c.hotness == 1), bag=c.hotness > 1)
      for c in schema.sparse
    ),
    targets=(),
  )
  coders = tuple(
    Coder(column, column.rows, c.hotness, Values())
    for column, c in zip(columns.sparse, schema.sparse, strict=True)
  )
  policy = out_of_range(run)
  coders = tuple(dataclasses.replace(c, out_of_range=policy) for c in coders)
  return Intake(_schema(columns, {}), coders, policy)


def schema_of_set(prepared: Prepared, columns: Columns) -> RawSchema:
  """The raw columns of a set's features, without labels."""
  details = prepared.details
  raw = details['format']
  if raw['format'] in ('csv', 'parquet'):
    return schema_of(raw, separated=True).to_score()
  kinds = details.get('values', {})
  if raw['format'] == movielens_reader.FORMAT:
    kinds = {}  # its numbers are decimal
  elif raw['format'] == 'criteo':
    kinds = dict.fromkeys((c.name for c in columns.sparse), 'hex')
  return _schema(columns, kinds)


def _schema(columns: Columns, kinds: Mapping[str, str]) -> RawSchema:
  """A schema whose columns have the names of the features."""
  return RawSchema(
    labels={},
    dense=tuple(DenseSource(c.name, c) for c in columns.dense),
    sparse=tuple(
      SparseSource(
        c.name,
        c,
        kinds.get(c.name, 'integer'),
        _SEPARATOR if c.bag else None,
        f'{c.name}.weights' if c.weighted else None,
      )
      for c in columns.sparse
    ),
  )
