"""Reads and checks fields of a config; errors name the field."""

import enum
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from dlrm_jax.errors import InputError

Choice = TypeVar('Choice')

_MOST = 2**31 - 1  # largest int32
_UNITS = {
  'kB': 10**3,
  'MB': 10**6,
  'GB': 10**9,
  'KiB': 2**10,
  'MiB': 2**20,
  'GiB': 2**30,
}


def choose_one(field: str, value: Any, choices: Mapping[str, Choice]) -> Choice:
  """The choice that the word in a field names.

  Args:
    field: dotted name, for the message.
    value: the word.
    choices: all choices by their words.

  Raises:
    InputError: the value is none of the words.
  """
  if not isinstance(value, str) or value not in choices:
    raise InputError(
      f'config.{field} is {value!r}; expected one of {", ".join(choices)}'
    )
  return choices[value]


def by_value(kind: type[enum.Enum]) -> dict[str, Any]:
  """The members of an enum by their values, as choices of `choose_one`."""
  return {member.value: member for member in kind}


def field_value(config: ConfigDict, field: str) -> Any:
  """The value of a field, which may have a dotted name."""
  value: Any = config
  for name in field.split('.'):
    value = value[name]
  return value


def at_least(config: ConfigDict, field: str, least: float) -> Any:
  """The number in a field, which must be at least `least`."""
  value = field_value(config, field)
  if not isinstance(value, int | float) or not least <= value < 2**63:
    raise InputError(
      f'config.{field} is {value!r}; expected a number of at least {least}'
    )
  return value


def whole(field: str, value: Any, least: int, most: int = _MOST) -> int:
  """Returns a value that must be a whole number from `least` to `most`.

  Args:
    field: dotted name, for the message.
    value: value of the field.
    least: smallest number allowed.
    most: largest number allowed.
  """
  if type(value) is not int or not least <= value <= most:
    too_many = isinstance(value, int) and value > most
    bounds = f'at least {least}' + (f' and at most {most:,}' * too_many)
    raise InputError(
      f'config.{field} is {value!r}; expected a whole number of {bounds}'
    )
  return value


def count(config: ConfigDict, field: str, least: int) -> int:
  """The whole number in a field, which must be at least `least`."""
  return whole(field, field_value(config, field), least)


def widths(config: ConfigDict, field: str) -> tuple[int, ...]:
  """The widths of hidden layers in a field."""
  value = field_value(config, field)
  if not all(type(w) is int and 0 < w <= _MOST for w in value):
    raise InputError(
      f'config.{field} is {value!r}; expected widths of hidden layers, '
      f'positive whole numbers'
    )
  return tuple(value)


def read_size(option: str, value: Any) -> int:
  """The bytes of a size with its unit.

  Args:
    option: flag or field that has the value, for the message.
    value: a number with its unit.

  >>> read_size('--memory', '16GB')
  16000000000
  """
  parts = re.fullmatch(
    r'\s*(\d+(?:\.\d+)?)\s*(kB|MB|GB|KiB|MiB|GiB)\s*', str(value)
  )
  number = 0 if parts is None else float(parts[1]) * _UNITS[parts[2]]
  if not 1 <= number < 2**63:
    raise InputError(
      f'{option} is {value!r}; expected a number with its unit '
      f'({", ".join(_UNITS)}), as in 16GB'
    )
  return int(number)


def size(field: str, value: Any) -> int:
  """The bytes of the size in a field."""
  return read_size(f'config.{field}', value)
