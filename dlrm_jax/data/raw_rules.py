"""Columns of a raw log -> typed columns of a frame, and the rows that fail.

A rule says what a frame's column is made of, and which values are good. All
rules are Polars expressions over whole columns; no Python runs for a row,
but for a bad one. `IN` and `OUT` mark columns as the file has them, and as
the frame has them, so that no two names clash.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import polars as pl

from dlrm_jax.data.bad_rows import Fault
from dlrm_jax.data.raw import kept, numbered
from dlrm_jax.data.raw_schema import RawSchema, SparseSource
from dlrm_jax.errors import InputError

IN, OUT = '<', '>'
FLOAT_MAX = 3.4028234663852886e38
"""The largest float32."""

INTEGER = r'-?[0-9]{1,19}'
NUMBER = r'-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?'
HEX = '[0-9a-fA-F]{1,8}'

_WORDS = {'0': 0, '1': 1} | {
  word: int(word.lower() == 'true')
  for word in ('true', 'True', 'TRUE', 'false', 'False', 'FALSE')
}
_TEXT = (pl.String, pl.Categorical, pl.Enum)


class Rule(NamedTuple):
  """What a column of the frame is made of.

  Attributes:
    name: of the frame's column.
    column: of the file.
    value: the column, where it is good.
    good: whether it is; null counts as not.
    kind: of fault, where not.
    expected: what should be there.
    most: values kept of a bag; 0: all.
  """

  name: str
  column: str
  value: pl.Expr
  good: pl.Expr
  kind: str
  expected: str
  most: int = 0


class _Made(NamedTuple):
  """Of a column or of a bag's elements: value, whether good, in words."""

  value: pl.Expr
  good: pl.Expr
  kind: str
  expected: str


def _whole(pattern: str) -> str:
  return f'^(?:{pattern})$'


def _is_text(dtype: pl.DataType) -> bool:
  return isinstance(dtype, _TEXT)


def _number(x: pl.Expr, dtype: pl.DataType, above: float | None) -> _Made:
  """A number that float32 can hold; not NaN, not infinite."""
  value = x.cast(pl.Float64, strict=False)
  good = (value.abs() <= FLOAT_MAX) & value.is_not_nan()
  expected = 'a finite number'
  if above is not None:
    good &= value > above
    expected += f' above {above:g}'
  if _is_text(dtype):
    good &= x.str.contains(_whole(NUMBER))
  return _Made(value, good, 'not a number', expected)


def _integer(x: pl.Expr, dtype: pl.DataType) -> _Made:
  value = x.cast(pl.Int64, strict=False)
  good = value.is_not_null()
  if _is_text(dtype):
    good &= x.str.contains(_whole(INTEGER))
  return _Made(value, good, 'not an integer', 'an integer of 64 bits')


def _values(x: pl.Expr, dtype: pl.DataType, values: str) -> _Made | None:
  """A sparse value; None where a column of this type has none."""
  if values == 'integer':
    return _integer(x, dtype) if _is_text(dtype) or dtype.is_integer() else None
  if not _is_text(dtype):
    return None
  if values == 'hex':
    value = x.str.to_integer(base=16, dtype=pl.UInt32, strict=False)
    return _Made(
      value, x.str.contains(_whole(HEX)), 'not hex', '1 to 8 hex digits'
    )
  good = ~x.str.contains('\0', literal=True)
  return _Made(x, good, 'NUL byte', 'text without NUL bytes')


def _is_number(dtype: pl.DataType) -> bool:
  return dtype.is_numeric() or dtype == pl.Boolean or _is_text(dtype)


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
    self.rules = tuple(self._all(schema))

  def _all(self, schema: RawSchema) -> Iterator[Rule]:
    yield self._label(schema)
    for source in schema.dense:
      above = -3 if source.feature.transform == 'log3' else None
      made = self._numbers(source.column, above)
      yield self._rule(source.feature.name, source.column, made, False)
    for source in schema.sparse:
      yield from (self._bag if source.feature.bag else self._one)(source)
    if schema.weight:
      made = self._numbers(schema.weight, None)
      good = made.good & (made.value >= 0)
      made = made._replace(
        value=made.value.cast(pl.Float32), good=good, expected='a weight, >= 0'
      )
      yield self._rule('weight', schema.weight, made, True)
    if schema.time:
      yield self._rule('time', schema.time, self._time(schema.time), True)

  def _wrong(self, column: str, expected: str) -> InputError:
    return InputError(
      f'{self._path}: column {column!r} is {self._types[column]}; expected '
      f'{expected}'
    )

  def _rule(
    self, name: str, column: str, made: _Made, needed: bool, most: int = 0
  ) -> Rule:
    """A null is bad where a value is needed, else missing."""
    null = pl.col(IN + column).is_null()
    good = made.good & ~null if needed else made.good | null
    expected = made.expected if needed else f'{made.expected}, or nothing'
    return Rule(name, column, made.value, good, made.kind, expected, most)

  def _label(self, schema: RawSchema) -> Rule:
    name, least = schema.label, schema.threshold
    x, dtype = pl.col(IN + name), self._types[name]
    if least is not None:
      made = self._numbers(name, None)
      value = (made.value >= least).cast(pl.UInt8)
      return self._rule('label', name, made._replace(value=value), True)
    if _is_text(dtype):
      value = x.cast(pl.String).replace_strict(
        _WORDS, default=None, return_dtype=pl.UInt8
      )
    elif _is_number(dtype):
      value = pl.when(x.cast(pl.Float64).is_in([0.0, 1.0])).then(
        x.cast(pl.UInt8, strict=False)
      )
    else:
      raise self._wrong(name, 'labels, 0 or 1')
    made = _Made(value, value.is_not_null(), 'bad label', '0 or 1')
    return self._rule('label', name, made, True)

  def _numbers(self, column: str, above: float | None) -> _Made:
    dtype = self._types[column]
    if not _is_number(dtype):
      raise self._wrong(column, 'numbers')
    return _number(pl.col(IN + column), dtype, above)

  def _time(self, column: str) -> _Made:
    x, dtype = pl.col(IN + column), self._types[column]
    if isinstance(dtype, (pl.Date, pl.Datetime)):
      value = x.dt.epoch('s')
      return _Made(value, value.is_not_null(), 'no time', 'a time')
    if not (_is_text(dtype) or dtype.is_integer()):
      raise self._wrong(column, 'integers, dates, or dates with times')
    return _integer(x, dtype)

  def _sparse(self, column: str, values: str) -> _Made:
    dtype = self._types[column]
    made = _values(pl.col(IN + column), dtype, values)
    if made is None:
      hint = "; say 'values': 'integer'" if dtype.is_integer() else ''
      raise self._wrong(column, f'values that are {values}{hint}')
    return made

  def _one(self, source: SparseSource) -> Iterator[Rule]:
    made = self._sparse(source.column, source.values)
    yield self._rule(source.feature.name, source.column, made, False)

  def _lists(self, column: str, separator: str) -> tuple[pl.Expr, pl.DataType]:
    """A column of bags as lists, and the type of their elements."""
    x, dtype = pl.col(IN + column), self._types[column]
    if _is_text(dtype) and separator:
      return x.str.split(separator).fill_null([]), pl.String()
    if isinstance(dtype, pl.Array):
      x = x.arr.to_list()
    elif not isinstance(dtype, pl.List):
      raise self._wrong(column, 'lists')
    return x.fill_null([]), dtype.inner  # pyrefly: ignore

  def _bag(self, source: SparseSource) -> Iterator[Rule]:
    feature, element = source.feature, pl.element()
    bags, inner = self._lists(source.column, source.separator)
    made = _values(element, inner, source.values)
    if made is None:
      raise self._wrong(source.column, f'lists of {source.values} values')
    yield self._elements(feature.name, source.column, bags, made, feature)
    if not source.weights:
      return
    weights, inner = self._lists(source.weights, source.separator)
    if not _is_number(inner):
      raise self._wrong(source.weights, 'lists of numbers')
    made = _number(element, inner, None)
    made = made._replace(value=made.value.cast(pl.Float32))
    name = f'{feature.name}.weights'
    rule = self._elements(name, source.weights, weights, made, feature)
    yield rule._replace(
      good=rule.good & (bags.list.len() == weights.list.len()),
      kind='weights do not fit',
      expected=f'a finite number for each of {source.column}',
    )

  def _elements(
    self, name: str, column: str, bags: pl.Expr, made: _Made, feature: Any
  ) -> Rule:
    good = bags.list.eval(made.good.fill_null(False)).list.all()
    return Rule(
      name,
      column,
      bags.list.eval(made.value),
      good,
      f'{made.kind} in a bag',
      f'each {made.expected}',
      feature.hotness,
    )

  def sift(
    self, frame: pl.DataFrame
  ) -> tuple[pl.DataFrame, list[tuple[int, Fault]]]:
    """Columns of a file -> a frame of the good rows, and the bad ones.

    Args:
      frame: columns of the file under their names.

    Returns:
      The frame, whose `NUMBER` counts the rows given, and of each bad row its
      number (from 0) and its first fault.
    """
    frame = frame.rename(lambda name: IN + name)
    made = frame.select(
      *(rule.value.alias(f'{OUT}{n}') for n, rule in enumerate(self.rules)),
      *(
        rule.good.fill_null(False).alias(str(n))
        for n, rule in enumerate(self.rules)
      ),
    )
    marks = [str(n) for n in range(len(self.rules))]
    good = made.select(pl.all_horizontal(marks)).to_series()
    faults = [] if good.all() else self._faults(frame, made, good)
    if faults:
      made = made.filter(good)
    rows = made.select(
      (x.list.head(rule.most) if rule.most else x).alias(rule.name)
      for n, rule in enumerate(self.rules)
      for x in [pl.col(f'{OUT}{n}')]
    )
    return numbered(rows, kept(rows, [row for row, _ in faults])), faults

  def _faults(
    self, frame: pl.DataFrame, made: pl.DataFrame, good: pl.Series
  ) -> list[tuple[int, Fault]]:
    faults: list[tuple[int, Fault]] = []
    for row in good.not_().arg_true().to_list():
      first = next(n for n in range(len(self.rules)) if not made[str(n)][row])
      rule = self.rules[first]
      value = shorten(frame[IN + rule.column][row])
      faults.append((row, Fault(rule.kind, rule.column, value, rule.expected)))
    return faults


def shorten(value: object, limit: int = 60) -> str:
  """A value as a message shows it."""
  value = value.to_list() if isinstance(value, pl.Series) else value
  shown = 'nothing' if value is None else repr(value)
  return shown if len(shown) <= limit else f'{shown[:limit]}...'
