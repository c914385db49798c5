"""The raw columns of a log: numbers and ids, and how ids become rows."""

import dataclasses

import polars as pl


@dataclasses.dataclass(frozen=True)
class Dense:
  """A dense column.

  Attributes:
    name: of the feature.
    transform: 'log1p' (log(max(x, 0) + 1)), 'log3' (log(x + 3)), or 'none';
      a missing value is 0 before it.
  """

  name: str
  transform: str = 'none'


@dataclasses.dataclass(frozen=True)
class Sparse:
  """A sparse column.

  Attributes:
    name: of the feature.
    ids: how values become rows: 'vocabulary' (counted), 'hashed', or 'rows'
      (they are rows already, 0 ... rows - 1).
    rows: of 'hashed' and 'rows'.
    hotness: ids an example at most; 0: those of the longest bag.
    bag: whether values are lists.
    weighted: whether a bag has weights.
    modulo: rows of the table, modulo which those of a vocabulary are taken;
      0: it has all of them.
    expand: whether one value becomes a bag of `hotness` (see `multi_hot`).
  """

  name: str
  ids: str = 'vocabulary'
  rows: int = 0
  hotness: int = 1
  bag: bool = False
  weighted: bool = False
  modulo: int = 0
  expand: bool = False


@dataclasses.dataclass(frozen=True)
class Columns:
  """The columns that a reader gives; label comes first and is always there.

  Attributes:
    dense: those of numbers.
    sparse: those of ids.
    weight: whether examples have weights.
    time: whether they have a time.
    label: the name that files have for the label; '': it has none.
  """

  dense: tuple[Dense, ...]
  sparse: tuple[Sparse, ...]
  weight: bool = False
  time: bool = False
  label: str = ''


def flat(column: Sparse, frame: pl.DataFrame) -> pl.Series:
  """All values of a sparse column, bags one after the other."""
  values = frame[column.name]
  if column.bag:
    values = values.filter(values.list.len() > 0).explode()
  return values
