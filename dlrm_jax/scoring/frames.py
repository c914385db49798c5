"""Rows in memory as a log: a `Reader` of one frame."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows, shorten
from dlrm_jax.prepare.readers.reader import FRAME_ROWS, Piece
from dlrm_jax.prepare.values.raw_schema import RawSchema
from dlrm_jax.prepare.values.rules import Rules
from dlrm_jax.prepare.values.sift import apply_rules
from dlrm_jax.vocabulary.columns import Columns

IN_MEMORY = 'the data'
"""What messages call rows that are in no file."""


@dataclasses.dataclass(frozen=True)
class FrameReader:
  """Reads a frame; a `Reader` whose only file is called `IN_MEMORY`.

  Attributes:
    schema: features and their columns.
    frame: the rows.
  """

  schema: RawSchema
  frame: pl.DataFrame

  @property
  def columns(self) -> Columns:
    """Columns of the frames."""
    return self.schema.columns

  def pieces(self, path: str) -> list[Piece]:
    """Cuts the rows into pieces of `FRAME_ROWS`."""
    self.schema.check(self.frame.columns, path)
    return [
      Piece(path, start, min(start + FRAME_ROWS, self.frame.height))
      for start in range(0, self.frame.height, FRAME_ROWS)
    ]

  def about(self, path: str) -> int:
    """Number of rows."""
    del path
    return self.frame.height

  def place(self, piece: Piece) -> tuple[int, str]:
    """Number of a piece's first row, from 1, and 'row'."""
    return piece.start + 1, 'row'

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The good rows of a piece."""
    del digest
    path, start, stop = piece
    frame = self.frame[start:stop].select(self.schema.names)
    rules = Rules(self.schema, frame.schema, path)
    good, faults = apply_rules(rules.rules, frame)
    for row, fault in faults:
      bad.add(path, start + row + 1, fault, 'row')
    yield good


def frame_of_rows(rows: Any, names: tuple[str, ...]) -> pl.DataFrame:
  """Rows of any kind as a frame of some of their columns.

  Args:
    rows: a mapping from names of columns to arrays or lists, or a frame of
      Polars or pandas.
    names: the columns to take; those that are not there are left out.

  Raises:
    InputError: the rows are of another kind, or a column is no column.
  """
  if isinstance(rows, pl.DataFrame):
    return rows
  if isinstance(rows, pl.LazyFrame):
    try:
      return rows.collect()
    except pl.exceptions.PolarsError as error:
      raise InputError(f'{IN_MEMORY}: {_first_line(error)}') from None
  if not isinstance(rows, Mapping) and not _of_pandas(rows, 'columns'):
    raise InputError(
      f'rows to score are of the type {type(rows).__name__}; expected a dict '
      'of arrays or lists, a frame of Polars or pandas, or the path of a file'
    )
  there = list(rows) if isinstance(rows, Mapping) else list(rows.columns)
  series = [_series(name, rows[name]) for name in names if name in there]
  lengths = {len(x): x.name for x in series}
  if len(lengths) > 1:
    (a, x), (b, y) = list(lengths.items())[:2]
    raise InputError(
      f'{IN_MEMORY}: column {x!r} has {a:,} values and column {y!r} has {b:,}; '
      'expected as many in each'
    )
  # Names of other columns help where one is missing.
  others = [n for n in map(str, there) if n not in names]
  height = next(iter(lengths), 0)
  empty = pl.Series([None], dtype=pl.Null).new_from_index(0, height)
  return pl.DataFrame([*series, *(empty.alias(name) for name in others)])


def _series(name: str, values: Any) -> pl.Series:
  """The values of a column; NaN among texts or lists is missing.

  Raises:
    InputError: they are no values of rows.
  """
  if isinstance(values, pl.Series):
    return values.alias(name)
  if _of_pandas(values, 'isna'):
    values = _without_missing(values)
  elif not isinstance(values, list | tuple | range):
    if isinstance(values, str | bytes) or not hasattr(values, '__array__'):
      raise InputError(
        f'{IN_MEMORY}: column {name!r} is {shorten(values)}; expected an array '
        'or a list with a value for each row'
      )
    values = np.asarray(values)  # also of JAX, of PyTorch
    if not values.ndim:
      return _series(name, values.item())
    values = values.tolist() if values.dtype == object else values
  try:
    try:
      series = pl.Series(name, values)
    except TypeError:  # of several types
      series = pl.Series(name, [_or_none(x) for x in values], strict=False)
  except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
    raise InputError(
      f'{IN_MEMORY}: column {name!r}: {_first_line(error)}'
    ) from None
  if series.dtype.is_float() and series.is_nan().all():  # of no type then
    return pl.Series(name, [None] * len(series))
  return series


def _or_none(value: Any) -> Any:
  """None for a NaN."""
  return None if isinstance(value, float) and value != value else value


def _first_line(error: Exception) -> str:
  return str(error).splitlines()[0][:120]


def _of_pandas(value: Any, attribute: str) -> bool:
  module = type(value).__module__.partition('.')[0]
  return module == 'pandas' and hasattr(value, attribute)


def _without_missing(column: Any) -> Any:
  """A column of pandas as an array, or a list with None where missing."""
  values = column.to_numpy()
  if values.dtype.kind in 'iufb':
    return values
  missing = np.asarray(column.isna())
  return [None if lost else x for x, lost in zip(values, missing, strict=True)]
