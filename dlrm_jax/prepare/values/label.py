"""Which rows are clicks: `config.data.raw.label`, and its rule.

'label': 'click'  # a column of 0 and 1, -1 and 1, true and false
'label': 'rating >= 4'  # or >
'label': 'event == buy'
'label': {'column': 'event', 'positive': ['click', 'buy']}
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.values.typed import (
  Made,
  Typed,
  Words,
  is_missing_text,
  is_number,
  number,
  stripped,
  truth,
)

_NUMBER = r'[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?'
_COMPARED = re.compile(rf'\s*(.*?)\s*(>=|>)\s*({_NUMBER})\s*')
_EQUAL = re.compile(r'\s*(.*?)\s*==\s*(.*?)\s*')
_YES = ('true', 't', 'yes', 'y')
_NO = ('false', 'f', 'no', 'n')
_PLAIN = {'0': 0, '1': 1, '-1': -1, '+1': 1}
_KEYS = ('column', 'positive')


@dataclasses.dataclass(frozen=True)
class Label:
  """Where the label is, and what is a click.

  Attributes:
    column: of the file.
    least: the least number that is a click.
    above: or the greatest that is none.
    positive: or the values that are clicks.
  """

  column: str
  least: float | None = None
  above: float | None = None
  positive: tuple[str, ...] = ()

  def made(
    self, typed: Typed, words: Words, quick: bool = False
  ) -> Made | None:
    """The labels of a column; None where its type has none.

    Args:
      typed: the column.
      words: what means "missing".
      quick: only plainly written ones.
    """
    if self.positive:
      return _among(typed, words, self.positive)
    if not is_number(typed.dtype):
      return None
    if self.least is None and self.above is None:
      return clicks(typed, words, self.column, quick)
    made = number(typed, words, quick=quick)
    x = made.value
    value = x > self.above if self.above is not None else x >= self.least
    return made._replace(value=value.cast(pl.UInt8))


def label_of(field: str, given: Any) -> Label:
  """Reads the config's label.

  Raises:
    InputError: it is none.
  """
  if isinstance(given, Mapping) and set(given) == set(_KEYS):
    column, positive = given['column'], given['positive']
    if not isinstance(positive, (list, tuple)):
      positive = [positive]
    texts = tuple(str(value) for value in positive)
    if isinstance(column, str) and column and texts and all(texts):
      return Label(column, positive=texts)
  elif isinstance(given, str) and given:
    if found := _COMPARED.fullmatch(given):
      column, sign, bound = found[1], found[2], float(found[3])
      if sign == '>':
        return Label(column, above=bound)
      return Label(column, least=bound)
    if (found := _EQUAL.fullmatch(given)) and found[2]:
      return Label(found[1], positive=(found[2].strip('\'"'),))
    return Label(given)
  raise InputError(
    f"config.{field} is {given!r}; expected a column, 'column >= number', "
    "'column == value', or {'column': name, 'positive': [values]}"
  )


def clicks(
  typed: Typed, words: Words, column: str = '', quick: bool = False
) -> Made:
  """Labels that are 0 and 1, or -1 and 1, or words: Int8.

  Whether a log has both -1 and 0 is looked at later (`BadRows.labels`).
  """
  x = typed.x
  y = column or 'column'
  expected = (
    '0 or 1, or -1 or 1, true or false (for others say which: '
    f"'label': '{y} >= 1', or '{y} == VALUE')"
  )
  if typed.is_text and quick:
    plain = {t: n for t, n in _PLAIN.items() if n not in words.numbers}
    value = x.replace_strict(plain, default=None, return_dtype=pl.Int8)
    return Made(value, x.is_null(), 'bad label', expected)
  made = number(typed, words)
  value = made.value
  if typed.is_text:
    word = truth(stripped(x), _YES, _NO)
    value = pl.coalesce(value, word.cast(pl.Float64))
  value = pl.when(value.is_in([-1.0, 0.0, 1.0])).then(value)
  return Made(value.cast(pl.Int8), made.missing, 'bad label', expected)


def _among(
  typed: Typed, words: Words, positive: tuple[str, ...]
) -> Made | None:
  """1 for some values, 0 for all others; numbers are compared as numbers."""
  numbers = [float(x) for x in positive if re.fullmatch(_NUMBER, x)]
  numbers += [float(x == 'True') for x in positive if x in ('True', 'False')]
  if not is_number(typed.dtype) or not (numbers or typed.is_text):
    return None
  made = number(typed, words)
  value = made.value.is_in(numbers)
  if typed.is_text:
    s = stripped(typed.x)
    missing = is_missing_text(s, words, ('',))
    value = value.fill_null(False) | s.is_in([x.strip() for x in positive])
    value = pl.when(~missing).then(value)
    made = Made(value, missing, 'bad label', 'a value')
  return made._replace(value=value.cast(pl.UInt8))
