"""The rules of a raw log: what columns of frames are made of, and are good.

All rules are Polars expressions over whole columns; `raw_sift` applies them.
`IN`, `OUT` and `LISTS` mark columns as the file has them, as the frame has
them, and bags of text as lists, so that no two names clash.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.values.label import Label
from dlrm_jax.prepare.values.raw_bags import is_plain
from dlrm_jax.prepare.values.raw_schema import RawSchema, SparseSource
from dlrm_jax.prepare.values.times import time
from dlrm_jax.prepare.values.typed import (
  KINDS,
  Made,
  Typed,
  is_number,
  number,
  plain,
)

IN, OUT, LISTS = '<', '>', '['
_BAG = 'elements between separators, or one list, '


class Check(NamedTuple):
  """A column of the frame, and where it is good (null counts as not)."""

  value: pl.Expr
  good: pl.Expr


class Rule(NamedTuple):
  """What a column of the frame is made of.

  Attributes:
    name: of the frame's column.
    column: of the file.
    check: of what is written plainly, or of all.
    full: of all; None: `check` is.
    kind: of fault, where the value is not good.
    expected: what should be there.
    most: values kept of a bag; 0: all.
    split: columns of bags that are text, with their separators: `full` takes
      them as lists, named `LISTS` and the column.
    together: whether `full` must see all rows of a frame: what is good in one
      depends on the others.
  """

  name: str
  column: str
  check: Check
  full: Check | None
  kind: str
  expected: str
  most: int = 0
  split: tuple[tuple[str, str], ...] = ()
  together: bool = False


_Make = Callable[[bool], Made]
"""Makes a column of what is written plainly (True), or of all."""


class _Bags(NamedTuple):
  """Bags as lists, the type of their elements, and where they are lists."""

  x: pl.Expr
  inner: pl.DataType
  good: pl.Expr


class _Elements(NamedTuple):
  """Bags, and what their elements are."""

  bags: _Bags
  made: Made

  @property
  def _missing(self) -> pl.Expr:
    return self.bags.x.list.eval(self.made.missing)

  def check(self, quick: bool, others: '_Elements | None' = None) -> Check:
    """The bags without missing elements.

    Args:
      quick: none may be missing.
      others: bags that must have and lack elements in the same places.
    """
    value, made = self.bags.x.list.eval(self.made.value), self.made
    found = made.found if quick else made.good
    good = self.bags.good & self.bags.x.list.eval(found).list.all()
    if others and quick:
      good &= others.check(True).good
      good &= others.bags.x.list.len() == self.bags.x.list.len()
    elif others:
      good &= self._missing == others._missing
    return Check(value if quick else value.list.drop_nulls(), good)


class Rules:
  """The rules of a schema for files whose columns have these types."""

  def __init__(
    self, schema: RawSchema, types: Mapping[str, pl.DataType], path: str
  ) -> None:
    """Makes the rules.

    Raises:
      InputError: a column is of a type that can't be what the schema says.
    """
    self._types = types
    self._path = path
    self._words = schema.missing
    self.rules = tuple(self._all(schema))

  def _all(self, schema: RawSchema) -> Iterator[Rule]:
    yield self._label(schema.label)
    for source in schema.dense:
      above = -3 if source.feature.transform == 'log3' else None
      yield self._numbers(source.feature.name, source.column, above)
    for source in schema.sparse:
      yield from (self._bag if source.feature.bag else self._one)(source)
    if schema.weight:
      yield self._weight(schema.weight)
    if schema.time:
      yield self._time(schema.time)

  def _wrong(self, column: str, expected: str) -> InputError:
    return InputError(
      f'{self._path}: column {column!r} is {self._types[column]}; expected '
      f'{expected}'
    )

  def _typed(self, column: str) -> Typed:
    return plain(pl.col(IN + column), self._types[column])

  def _rule(
    self, name: str, column: str, make: _Make, needed: bool = False
  ) -> Rule:
    """A null is bad where a value is needed, else missing."""

    def check(quick: bool) -> Check:
      made = make(quick)
      good = made.found if needed else made.good
      return Check(made.value, good)

    made = make(False)
    text = self._typed(column).is_text
    expected = made.expected if needed else f'{made.expected}, or nothing'
    return Rule(
      name,
      column,
      check(text),
      check(False) if text else None,
      made.kind,
      expected,
    )

  def _label(self, label: Label) -> Rule:
    typed = self._typed(label.column)
    if label.made(typed, self._words) is None:
      raise self._wrong(label.column, 'labels, as config.data.raw.label says')
    return self._rule(
      'label',
      label.column,
      lambda quick: label.made(typed, self._words, quick),  # pyrefly: ignore
      needed=True,
    )

  def _numbers(self, name: str, column: str, above: float | None) -> Rule:
    typed = self._typed(column)
    if not is_number(typed.dtype):
      raise self._wrong(column, 'numbers')
    return self._rule(
      name, column, lambda quick: number(typed, self._words, above, quick)
    )

  def _weight(self, column: str) -> Rule:
    typed = self._typed(column)
    if not is_number(typed.dtype):
      raise self._wrong(column, 'numbers')

    def make(quick: bool) -> Made:
      made = number(typed, self._words, quick=quick)
      value = pl.when(made.value >= 0).then(made.value.cast(pl.Float32))
      return made._replace(value=value, expected='a weight, >= 0')

    return self._rule('weight', column, make, needed=True)

  def _time(self, column: str) -> Rule:
    typed = self._typed(column)
    if time(typed) is None:
      raise self._wrong(column, 'numbers, dates, or dates with times')
    rule = self._rule(
      'time',
      column,
      lambda quick: time(typed, quick),  # pyrefly: ignore
      needed=True,
    )
    return rule._replace(together=True)  # Numbers or dates, not both.

  def _one(self, source: SparseSource) -> Iterator[Rule]:
    typed, make = self._typed(source.column), KINDS[source.values]
    if make(typed, self._words) is None:
      numeric = typed.dtype.is_numeric() or typed.dtype == pl.Boolean
      hint = "; say 'values': 'integer'" if numeric else ''
      raise self._wrong(source.column, f'values that are {source.values}{hint}')
    yield self._rule(
      source.feature.name,
      source.column,
      lambda quick: make(typed, self._words, quick),  # pyrefly: ignore
    )

  def _lists(self, column: str, separator: str, quick: bool) -> _Bags:
    """A column of bags as lists, and the type of their elements."""
    x, dtype = self._typed(column)
    if dtype == pl.String and separator:
      if quick:
        split = x.str.split(separator).fill_null([])
        return _Bags(split, pl.String(), is_plain(x, separator))
      split = pl.col(list_name(column, separator))
      return _Bags(split, pl.String(), split.is_not_null())
    if self._types[column] == pl.Null:
      x, dtype = x.cast(pl.List(pl.String)), pl.List(pl.String)
    if not isinstance(dtype, pl.List):
      raise self._wrong(column, 'lists')
    return _Bags(x.fill_null([]), dtype.inner, pl.lit(True))  # pyrefly: ignore

  def _bag(self, source: SparseSource) -> Iterator[Rule]:
    make, words = KINDS[source.values], self._words

    def ids(quick: bool) -> _Elements:
      bags = self._lists(source.column, source.separator, quick)
      made = make(Typed(pl.element(), bags.inner), words, quick)
      if made is None:
        raise self._wrong(source.column, f'lists of {source.values} values')
      return _Elements(bags, made)

    def weights(quick: bool) -> _Elements:
      bags = self._lists(source.weights, source.separator, quick)
      if not is_number(bags.inner):
        raise self._wrong(source.weights, 'lists of numbers')
      made = number(Typed(pl.element(), bags.inner), words, quick=quick)
      value = made.value.cast(pl.Float32)
      return _Elements(bags, made._replace(value=value))

    feature = source.feature
    quick, full = ids(True), ids(False)
    split = tuple(
      (column, source.separator)
      for column in (source.column, source.weights)
      if column and source.separator and self._typed(column).is_text
    )
    yield Rule(
      feature.name,
      source.column,
      quick.check(True),
      full.check(False),
      f'{full.made.kind} in a bag',
      f'{_BAG if source.separator else ""}each {full.made.expected}',
      feature.hotness,
      split[:1],
    )
    if source.weights:
      yield Rule(
        f'{feature.name}.weights',
        source.weights,
        weights(True).check(True, quick),
        weights(False).check(False, full),
        'weights do not fit',
        f'a finite number for each of {source.column}',
        feature.hotness,
        split,
      )


def list_name(column: str, separator: str) -> str:
  """Name of a column of bags of text as lists."""
  return f'{LISTS}{separator}{IN}{column}'
