"""MovieLens sets that were prepared before MovieLens had a `Reader`."""

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl

from dlrm_jax.data.prepared import Prepared
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.movielens.movielens_reader import FORMAT
from dlrm_jax.prepare.stages.merge import Digest
from dlrm_jax.prepare.stages.number import Numbering, vocabulary_path


def with_details(prepared: Prepared) -> Prepared:
  """A set of MovieLens with the details that sets of this version have.

  Raises:
    InputError: a vocabulary is missing or damaged.
  """
  details = prepared.details
  names = [column.name for column in prepared.schema.sparse]
  said = {
    'format': FORMAT,
    'name': details['source']['tfds'].split('/')[1],
    'people': [n for n in names if n in ('gender', 'age', 'occupation')],
    'genres': details['genres'],
  }
  folder = Path(prepared.directory)
  counted = {
    name: _counted(vocabulary_path(folder, name))
    for name in names
    if name != 'genres'
  }
  options = {'numbering': dataclasses.asdict(Numbering())}
  more = {'format': said, 'columns': counted, 'options': options}
  return dataclasses.replace(prepared, details={**details, **more})


def _counted(vocabulary: Path) -> dict[str, Any]:
  """What later versions note of a vocabulary when they make it."""
  digest = Digest()
  try:
    digest.add(pl.read_parquet(vocabulary, columns=['key'])['key'])
  except (OSError, pl.exceptions.PolarsError) as error:
    raise InputError(
      f'{vocabulary}: damaged ({str(error).splitlines()[0]}); prepare the set '
      'again'
    ) from error
  return {
    'kept': digest.rows,
    'digest': digest.hexdigest,
    'first_row': 1,
    'missing_place': digest.missing + 1,
  }
