"""Learned vectors of features, written as files of values and vectors.

Parquet has the columns `row`, `value` and `vector`, a list of numbers; CSV has
`v0`, `v1`, ... in place of `vector`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from dlrm_jax.embedding.features import Feature
from dlrm_jax.errors import InputError
from dlrm_jax.scoring.load import load
from dlrm_jax.scoring.row_files import check_name, writer_of


class Asked(NamedTuple):
  """A pair of `--tables`.

  Attributes:
    what: FEATURE or FEATURE/ROLE, as it is typed.
    path: the file.
  """

  what: str
  path: Path

  def __str__(self) -> str:
    return f'--tables {self.what}={self.path}'


def read_pairs(words: Sequence[str]) -> list[Asked]:
  """Reads `--tables FEATURE=FILE FEATURE/ROLE=FILE ...`.

  Raises:
    InputError: a word is no such pair.
  """
  pairs = []
  for word in words:
    what, mark, file = word.partition('=')
    if not (what and mark and file):
      raise InputError(
        f'--tables {word}: expected FEATURE=FILE, such as item=items.parquet, '
        f'or FEATURE/ROLE=FILE'
      )
    pairs.append(Asked(what, Path(file)))
    if pairs[-1].path.suffix not in ('.csv', '.parquet'):
      raise InputError(
        f'--tables {word}: expected a name that ends in .csv or .parquet'
      )
  return pairs


def features_of(
  pairs: Sequence[Asked], features: Sequence[Feature]
) -> list[Feature]:
  """The feature of each pair.

  Args:
    pairs: of `--tables`.
    features: all features of a model.

  Raises:
    InputError: there is no such feature, it has several roles and none is
      named, or a feature is named again.
  """
  found: list[Feature] = []
  for pair in pairs:
    feature = _feature_of(pair, features)
    if feature in found:
      raise InputError(f'{pair}: feature {pair.what} has a file already')
    found.append(feature)
  return found


def _feature_of(pair: Asked, features: Sequence[Feature]) -> Feature:
  by_column: dict[str, dict[str, Feature]] = {}
  for feature in features:
    by_column.setdefault(feature.source, {})[feature.role] = feature
  column, _, role = pair.what.rpartition('/')
  if pair.what in by_column:  # names of columns may have a slash
    column, role = pair.what, ''
  if column not in by_column:
    raise InputError(
      f'{pair}: there is no such feature; expected one of '
      f'{", ".join(by_column)}'
    )
  roles = by_column[column]
  choices = ', '.join(f'{column}/{name}' for name in roles)
  if role and role not in roles:
    raise InputError(
      f'{pair}: the model has no role {role}; expected {choices}'
    )
  if not role and len(roles) > 1:
    raise InputError(
      f'{pair}: the model has several vectors of {column}; expected one of '
      f'{choices}'
    )
  return roles[role or next(iter(roles))]


def shared_with(feature: Feature, features: Sequence[Feature]) -> str:
  """Words about the other features that read a table of a feature, or ''."""
  tables = {table.name for table in feature.encoding.tables}
  others = [
    other.name
    for other in features
    if other != feature
    and not tables.isdisjoint(table.name for table in other.encoding.tables)
  ]
  return f'; the table is also that of {", ".join(others)}' if others else ''


def export_vectors(
  folder: Path, checkpoint: str, pairs: Sequence[Asked]
) -> Iterator[str]:
  """Writes the vectors of features, a file each, in bounded memory.

  Args:
    folder: a workdir or an export.
    checkpoint: which one, of a workdir.
    pairs: the features and their files, which must not exist.

  Yields:
    Lines that say what was written.
  """
  taken: set[Path] = set()
  for pair in pairs:
    check_name(pair.path, str(pair))
    if pair.path.exists() or pair.path.absolute() in taken:
      there = 'there' if pair.path.exists() else 'named'
      raise InputError(f'{pair}: is {there} already; choose another one')
    taken.add(pair.path.absolute())
  model = load(folder, checkpoint)
  features = model.learned.features
  chosen = features_of(pairs, features)
  for (what, path), feature in zip(pairs, chosen, strict=True):
    count = 0
    with writer_of(path) as writer:
      for frame in model.learned.frames(
        model.intake, feature.source, feature.role
      ):
        writer.add(frame if path.suffix == '.parquet' else _flat(frame))
        count += frame.height
    shared = shared_with(feature, features)
    yield f'{path}: {count:,} vectors of {what}{shared}'


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
  """A column for each number of the vectors."""
  vectors = frame['vector'].to_numpy()
  numbers = pl.DataFrame(vectors, [f'v{k}' for k in range(vectors.shape[1])])
  return frame.drop('vector').hstack(numbers.get_columns())
