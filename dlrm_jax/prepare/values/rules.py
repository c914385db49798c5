"""Rules of a raw log: how each column of a frame is parsed and checked.

Rules are Polars expressions over whole columns; `sift` applies them. Columns
of the file, columns of the frame, and split bags get the prefixes `IN`, `OUT`
and `LISTS`, so that their names do not clash.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.values.label import Label
from dlrm_jax.prepare.values.raw_bags import is_plain
from dlrm_jax.prepare.values.raw_schema import RawSchema, SparseSource
from dlrm_jax.prepare.values.times import as_time
from dlrm_jax.prepare.values.typed import (
  KINDS,
  Parsed,
  Typed,
  as_number,
  is_number,
  plain,
)
from dlrm_jax.vocabulary.columns import GROUP

IN, OUT, LISTS = '<', '>', '['
KEPT = '/kept/'
"""What begins the names of columns that pass through a frame."""


class CheckedColumn(NamedTuple):
  """A column of the frame, and the mask of its good rows; null is not good."""

  value: pl.Expr
  good: pl.Expr


class Rule(NamedTuple):
  """How one column of the frame is parsed.

  Attributes:
    name: name of the frame's column.
    column: name of the file's column.
    check: the column as the quick parser reads it, where there are two.
    full: the column as the slow parser reads it; None where there is one.
    kind: kind of fault of a bad value.
    expected: description of good values, for messages.
    most: number of values kept of a bag; None: all.
    split: columns with bags of text, and their separators; `full` reads them
      already split, under the name `list_name(column, separator)`.
    together: whether `full` needs all rows of a frame, because one row decides
      what is good in another.
  """

  name: str
  column: str
  check: CheckedColumn
  full: CheckedColumn | None
  kind: str
  expected: str
  most: int | None = None
  split: tuple[tuple[str, str], ...] = ()
  together: bool = False


_Parse = Callable[[bool], Parsed]
"""Parses a column, by the quick parser (True) or by the slow one."""


class _BagLists(NamedTuple):
  """Bags as lists, the type of their elements, and the mask of valid lists."""

  x: pl.Expr
  inner: pl.DataType
  good: pl.Expr


class _Elements(NamedTuple):
  """Bags, and their parsed elements."""

  bags: _BagLists
  parsed: Parsed

  @property
  def _missing(self) -> pl.Expr:
    return self.bags.x.list.eval(self.parsed.missing)

  def _all(self, mask: pl.Expr) -> pl.Expr:
    """Mask of the valid bags in which `mask` holds for every element."""
    return self.bags.good & self.bags.x.list.eval(mask).list.all()

  def without_missing(self, ids: '_Elements | None' = None) -> CheckedColumn:
    """The bags; bad with a missing element, or of another length than `ids`."""
    value = self.bags.x.list.eval(self.parsed.value)
    good = self._all(self.parsed.present)
    if ids:
      good &= ids.without_missing().good
      good &= ids.bags.x.list.len() == self.bags.x.list.len()
    return CheckedColumn(value, good)

  def dropping_missing(self, ids: '_Elements | None' = None) -> CheckedColumn:
    """The bags without missing elements; bad if not the same as in `ids`."""
    value = self.bags.x.list.eval(self.parsed.value).list.drop_nulls()
    good = self._all(self.parsed.good)
    if ids:
      good &= self._missing == ids._missing
    return CheckedColumn(value, good)


class Rules:
  """The rules of a schema, for a file whose columns have these types."""

  def __init__(
    self, schema: RawSchema, types: Mapping[str, pl.DataType], path: str
  ) -> None:
    """Makes the rules.

    Raises:
      InputError: the type of a column cannot hold what the schema says.
    """
    self._types = types
    self._path = path
    self._words = schema.missing
    self._scored = not schema.labels
    self.rules = tuple(self._all(schema))

  def _all(self, schema: RawSchema) -> Iterator[Rule]:
    several = len(schema.labels) > 1
    for name, label in zip(
      schema.columns.labels, schema.labels.values(), strict=True
    ):
      yield self._label(name, label, needed=not several)
    for source in schema.dense:
      above = -3 if source.feature.transform == 'log3' else None
      yield self._numbers(source.feature.name, source.column, above)
    for source in schema.sparse:
      if source.feature.bag:
        yield from self._bag(source)
      else:
        yield self._one(source.feature.name, source.column, source.values)
    if schema.weight:
      yield self._weight(schema.weight)
    if schema.time:
      yield self._time(schema.time)
    if schema.group:
      yield self._one(GROUP, *schema.group)
    for column in schema.kept:
      value = CheckedColumn(pl.col(IN + column), pl.lit(True))
      yield Rule(f'{KEPT}{column}', column, value, None, '', '')

  def _wrong(self, column: str, expected: str) -> InputError:
    return InputError(
      f'{self._path}: column {column!r} is {self._types[column]}; expected '
      f'{expected}'
    )

  def _typed(self, column: str) -> Typed:
    return plain(pl.col(IN + column), self._types[column])

  def _rule(
    self, name: str, column: str, parse: _Parse, *, needed: bool = False
  ) -> Rule:
    """A rule of one value a row; a missing value is bad where it is needed."""

    def check(quick: bool) -> CheckedColumn:
      parsed = parse(quick)
      good = parsed.present if needed else parsed.good
      return CheckedColumn(parsed.value, good)

    parsed = parse(False)
    text = self._typed(column).is_text
    expected = parsed.expected if needed else f'{parsed.expected}, or nothing'
    return Rule(
      name,
      column,
      check(text),
      check(False) if text else None,
      parsed.kind,
      expected,
    )

  def _label(self, name: str, label: Label, *, needed: bool) -> Rule:
    typed = self._typed(label.column)
    if label.parsed(typed, self._words) is None:
      raise self._wrong(label.column, 'labels, as config.data.raw.label says')
    return self._rule(
      name,
      label.column,
      lambda quick: label.parsed(  # pyrefly: ignore
        typed, self._words, quick=quick
      ),
      needed=needed,
    )

  def _numbers(self, name: str, column: str, above: float | None) -> Rule:
    typed = self._typed(column)
    if not is_number(typed.dtype):
      raise self._wrong(column, 'numbers')
    return self._rule(
      name,
      column,
      lambda quick: as_number(typed, self._words, above=above, quick=quick),
    )

  def _weight(self, column: str) -> Rule:
    typed = self._typed(column)
    if not is_number(typed.dtype):
      raise self._wrong(column, 'numbers')

    def parse(quick: bool) -> Parsed:
      parsed = as_number(typed, self._words, quick=quick)
      value = pl.when(parsed.value >= 0).then(parsed.value.cast(pl.Float32))
      return parsed._replace(value=value, expected='a weight, >= 0')

    return self._rule('weight', column, parse, needed=True)

  def _time(self, column: str) -> Rule:
    typed = self._typed(column)
    if as_time(typed) is None:
      raise self._wrong(column, 'numbers, dates, or dates with times')
    rule = self._rule(
      'time',
      column,
      lambda quick: as_time(typed, quick=quick),  # pyrefly: ignore
      needed=True,
    )
    return rule._replace(together=True)  # One date makes all numbers bad.

  def _one(self, name: str, column: str, values: str) -> Rule:
    typed, parse = self._typed(column), KINDS[values]
    if parse(typed, self._words) is None:
      numeric = typed.dtype.is_numeric() or typed.dtype == pl.Boolean
      hint = "; say 'values': 'integer'" if numeric else ''
      if numeric and self._scored:
        hint = ', given as text'
      raise self._wrong(column, f'values that are {values}{hint}')
    return self._rule(
      name,
      column,
      lambda quick: parse(typed, self._words, quick=quick),  # pyrefly: ignore
    )

  def _lists(
    self, column: str, separator: str | None, *, quick: bool
  ) -> _BagLists:
    """A column of bags as lists, and the type of their elements."""
    x, dtype = self._typed(column)
    if dtype == pl.String and separator:
      if quick:
        split = x.str.split(separator).fill_null([])
        return _BagLists(split, pl.String(), is_plain(x, separator))
      split = pl.col(list_name(column, separator))
      return _BagLists(split, pl.String(), split.is_not_null())
    if self._types[column] == pl.Null:
      x, dtype = x.cast(pl.List(pl.String)), pl.List(pl.String)
    if not isinstance(dtype, pl.List):
      raise self._wrong(column, 'lists')
    inner: Any = dtype.inner
    return _BagLists(x.fill_null([]), inner, pl.lit(True))

  def _bag(self, source: SparseSource) -> Iterator[Rule]:
    parse, words = KINDS[source.values], self._words

    def ids(quick: bool) -> _Elements:
      bags = self._lists(source.column, source.separator, quick=quick)
      parsed = parse(Typed(pl.element(), bags.inner), words, quick=quick)
      if parsed is None:
        raise self._wrong(source.column, f'lists of {source.values} values')
      return _Elements(bags, parsed)

    def weights(column: str, quick: bool) -> _Elements:
      bags = self._lists(column, source.separator, quick=quick)
      if not is_number(bags.inner):
        raise self._wrong(column, 'lists of numbers')
      parsed = as_number(Typed(pl.element(), bags.inner), words, quick=quick)
      value = parsed.value.cast(pl.Float32)
      return _Elements(bags, parsed._replace(value=value))

    feature = source.feature
    quick, full = ids(True), ids(False)
    split = tuple(
      (column, source.separator)
      for column in (source.column, source.weights)
      if column and source.separator and self._typed(column).is_text
    )
    between = ''
    if source.separator:
      between = f'elements between {source.separator!r}, or one list, '
    yield Rule(
      feature.name,
      source.column,
      quick.without_missing(),
      full.dropping_missing(),
      f'{full.parsed.kind} in a bag',
      f'{between}each {full.parsed.expected}',
      feature.hotness or None,
      split[:1],
    )
    if source.weights:
      yield Rule(
        f'{feature.name}.weights',
        source.weights,
        weights(source.weights, True).without_missing(quick),
        weights(source.weights, False).dropping_missing(full),
        'weights do not fit',
        f'a finite number for each of {source.column}',
        feature.hotness or None,
        split,
      )


def list_name(column: str, separator: str) -> str:
  """Name of the column that has the split bags of a text column."""
  return f'{LISTS}{separator}{IN}{column}'
