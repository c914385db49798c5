"""The columns of a raw log: numbers, and ids with the way they become rows."""

import dataclasses
from typing import NamedTuple

import polars as pl

GROUP = '/group'
"""Name of the column of groups; no feature has a slash in its name."""


@dataclasses.dataclass(frozen=True)
class Dense:
  """A dense column.

  Attributes:
    name: name of the feature.
    transform: 'log1p' (log(max(x, 0) + 1)), 'log3' (log(x + 3)) or 'none'. A
      missing value counts as 0.
  """

  name: str
  transform: str = 'none'


@dataclasses.dataclass(frozen=True)
class Sparse:
  """A sparse column.

  Attributes:
    name: name of the feature.
    ids: how values become rows: 'vocabulary' (values are counted), 'hashed',
      or 'rows' (values are row numbers, 0 ... rows - 1).
    rows: number of rows of the table if `ids` is 'hashed' or 'rows'.
    hotness: maximum number of ids in an example; 0: length of the longest bag.
    bag: whether a value is a list of ids.
    weighted: whether the ids of a bag have weights.
    modulo: number of rows of the table, if the rows of a vocabulary are taken
      modulo that number; 0: the table has a row for every value.
    expand: whether each id becomes a made-up bag of `hotness` ids (see
      `prepare.stages.multi_hot`).
  """

  name: str
  ids: str = 'vocabulary'
  rows: int = 0
  hotness: int = 1
  bag: bool = False
  weighted: bool = False
  modulo: int = 0
  expand: bool = False


class Target(NamedTuple):
  """A label.

  Attributes:
    name: name of the label in the set.
    column: name of its column in the files; '': files do not name it.
  """

  name: str = 'click'
  column: str = ''


@dataclasses.dataclass(frozen=True)
class Columns:
  """The columns of a raw log.

  Attributes:
    dense: columns of numbers.
    sparse: columns of ids.
    weight: whether examples have weights.
    time: whether examples have a time.
    targets: the labels, at least one. Only if there are several may one be
      missing in a row.
    group: whether examples have groups.
  """

  dense: tuple[Dense, ...]
  sparse: tuple[Sparse, ...]
  weight: bool = False
  time: bool = False
  targets: tuple[Target, ...] = (Target(),)
  group: bool = False

  @property
  def labels(self) -> tuple[str, ...]:
    """Name of each label's column in a frame: 'label', or 'label/NAME'."""
    if len(self.targets) == 1:
      return ('label',)
    return tuple(f'label/{target.name}' for target in self.targets)


def flat_values(column: Sparse, frame: pl.DataFrame) -> pl.Series:
  """All values of a sparse column, one bag after the other."""
  values = frame[column.name]
  if column.bag:
    values = values.filter(values.list.len() > 0).explode()
  return values
