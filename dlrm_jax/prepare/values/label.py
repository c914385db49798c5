"""The labels of a raw log, `config.data.raw.label`: which rows are clicks.

'label': 'click'  # a column of 0 and 1, -1 and 1, true and false
'label': 'rating >= 4'  # or >
'label': 'event == buy'
'label': {'column': 'event', 'positive': ['click', 'buy']}
'label': ['click', 'conversion']  # several, named after their columns
'label': {'like': 'rating >= 4', 'love': 'rating >= 5'}  # several, with names
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import polars as pl

from dlrm_jax.data.schema import LABELS
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.values.typed import (
  Parsed,
  Typed,
  Words,
  as_number,
  is_missing_text,
  is_number,
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
  """The label column, and which of its values are clicks.

  At most one of `least`, `above` and `positive` is set; without any, the
  column has 0 and 1, or -1 and 1, or words such as true and false.

  Attributes:
    column: name of the file's column.
    least: smallest number that is a click.
    above: largest number that is not a click.
    positive: values that are clicks.
  """

  column: str
  least: float | None = None
  above: float | None = None
  positive: tuple[str, ...] = ()

  def parsed(
    self, typed: Typed, words: Words, *, quick: bool = False
  ) -> Parsed | None:
    """The labels of a column; None where its type cannot hold them.

    Args:
      typed: the column.
      words: the log's own words for "missing".
      quick: parse plain spellings only.
    """
    if self.positive:
      return _among(typed, words, self.positive)
    if not is_number(typed.dtype):
      return None
    if self.least is None and self.above is None:
      return clicks(typed, words, self.column, quick=quick)
    parsed = as_number(typed, words, quick=quick)
    x = parsed.value
    value = x > self.above if self.above is not None else x >= self.least
    return parsed._replace(value=value.cast(pl.UInt8))


def labels_of(field: str, value: Any) -> dict[str, Label]:
  """Reads the config's labels, by name; a single one is named 'click'.

  Raises:
    InputError: the value is not a label, nor several with different names.
  """
  if isinstance(value, Mapping) and not set(value) <= set(_KEYS):
    labels = {
      str(name): label_of(f'{field}.{name}', one) for name, one in value.items()
    }
  elif isinstance(value, (list, tuple)):
    several = [label_of(field, one) for one in value]
    labels = {label.column: label for label in several}
    if len(labels) < len(several):
      raise InputError(
        f'config.{field} has two labels of one column: {list(value)}; give '
        'each a name: {NAME: label, NAME: label}'
      )
  else:
    labels = {LABELS[0]: label_of(field, value)}
  for name in labels:
    if not name or '/' in name:
      raise InputError(
        f'config.{field}: no label can be called {name!r} (no slash); give it '
        'another name: {NAME: label}'
      )
  if not labels:
    raise InputError(f'config.{field} is {value!r}; expected a label or more')
  if len(labels) == 1:
    return dict(zip(LABELS, labels.values(), strict=True))
  return labels


def label_of(field: str, value: Any) -> Label:
  """Reads the config's label.

  Raises:
    InputError: the value is not a label.
  """
  if isinstance(value, Mapping) and set(value) == set(_KEYS):
    column, positive = value['column'], value['positive']
    if not isinstance(positive, (list, tuple)):
      positive = [positive]
    texts = tuple(str(x) for x in positive)
    if isinstance(column, str) and column and texts and all(texts):
      return Label(column, positive=texts)
  elif isinstance(value, str) and value:
    if match := _COMPARED.fullmatch(value):
      column, sign, bound = match[1], match[2], float(match[3])
      if sign == '>':
        return Label(column, above=bound)
      return Label(column, least=bound)
    if (match := _EQUAL.fullmatch(value)) and match[2]:
      return Label(match[1], positive=(match[2].strip('\'"'),))
    return Label(value)
  raise InputError(
    f"config.{field} is {value!r}; expected a column, 'column >= number', "
    "'column == value', or {'column': name, 'positive': [values]}"
  )


def clicks(
  typed: Typed, words: Words, column: str = 'column', *, quick: bool = False
) -> Parsed:
  """Labels 0 and 1, -1 and 1, or words such as true and false, as Int8.

  `BadRows.labels` refuses logs that have both -1 and 0.

  Args:
    typed: the column.
    words: the log's own words for "missing".
    column: its name, for messages.
    quick: parse plain spellings only.
  """
  x = typed.x
  expected = (
    '0 or 1, or -1 or 1, true or false (for others say which: '
    f"'label': '{column} >= 1', or '{column} == VALUE')"
  )
  if typed.is_text and quick:
    plain = {t: n for t, n in _PLAIN.items() if n not in words.numbers}
    value = x.replace_strict(plain, default=None, return_dtype=pl.Int8)
    return Parsed(value, x.is_null(), 'bad label', expected)
  parsed = as_number(typed, words)
  value = parsed.value
  if typed.is_text:
    word = truth(stripped(x), _YES, _NO)
    value = pl.coalesce(value, word.cast(pl.Float64))
  value = pl.when(value.is_in([-1.0, 0.0, 1.0])).then(value)
  return Parsed(value.cast(pl.Int8), parsed.missing, 'bad label', expected)


def _among(
  typed: Typed, words: Words, positive: tuple[str, ...]
) -> Parsed | None:
  """1 for `positive` values, 0 for others; numbers compare as numbers."""
  numbers = [float(x) for x in positive if re.fullmatch(_NUMBER, x)]
  numbers += [float(x == 'True') for x in positive if x in ('True', 'False')]
  if not is_number(typed.dtype) or not (numbers or typed.is_text):
    return None
  parsed = as_number(typed, words)
  value = parsed.value.is_in(numbers)
  if typed.is_text:
    s = stripped(typed.x)
    missing = is_missing_text(s, words, ('',))
    value = value.fill_null(False) | s.is_in([x.strip() for x in positive])
    value = pl.when(~missing).then(value)
    parsed = Parsed(value, missing, 'bad label', 'a value')
  return parsed._replace(value=value.cast(pl.UInt8))
