"""MovieLens sets that were prepared before MovieLens had a `Reader`."""

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl

from dlrm_jax.data.folder import vocabulary_path
from dlrm_jax.data.prepared import Prepared
from dlrm_jax.prepare.movielens.movielens_reader import FORMAT
from dlrm_jax.prepare.stages.merge import VocabularyDigest
from dlrm_jax.prepare.stages.number import Numbering
from dlrm_jax.prepare.stages.tables import damaged


def with_details(prepared: Prepared) -> Prepared:
  """A set of MovieLens with the details that sets of this version have.

  Raises:
    InputError: a vocabulary is missing or damaged.
  """
  details = prepared.details
  names = [column.name for column in prepared.schema.sparse]
  description = {
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
  more = {'format': description, 'columns': counted, 'options': options}
  return dataclasses.replace(prepared, details={**details, **more})


def _counted(vocabulary: Path) -> dict[str, Any]:
  """Facts on a vocabulary that later versions note when they write it."""
  digest = VocabularyDigest()
  try:
    digest.add(pl.read_parquet(vocabulary, columns=['key'], glob=False)['key'])
  except (OSError, pl.exceptions.PolarsError) as error:
    raise damaged(vocabulary, str(error).splitlines()[0]) from error
  return {
    'kept': digest.rows,
    'digest': digest.hexdigest,
    'first_row': 1,
    'missing_place': digest.missing + 1,
  }
