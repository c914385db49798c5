"""Reading the fields of a config, each with a message that names it."""

import enum
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from dlrm_jax.errors import InputError

Choice = TypeVar('Choice')

_MOST = 2**31 - 1  # of int32
_UNITS = {'MB': 10**6, 'GB': 10**9, 'MiB': 2**20, 'GiB': 2**30}


def choose_one(field: str, value: Any, choices: Mapping[str, Choice]) -> Choice:
  """What a field's word stands for."""
  if not isinstance(value, str) or value not in choices:
    raise InputError(
      f'config.{field} is {value!r}; expected one of {", ".join(choices)}'
    )
  return choices[value]


def by_value(kind: type[enum.Enum]) -> dict[str, Any]:
  """Members of an enum by the words of a config."""
  return {member.value: member for member in kind}


def read(config: ConfigDict, field: str) -> Any:
  """A field by its dotted name."""
  value: Any = config
  for name in field.split('.'):
    value = value[name]
  return value


def at_least(config: ConfigDict, field: str, least: float) -> Any:
  """A number that must not be less."""
  value = read(config, field)
  if not isinstance(value, int | float) or not least <= value < 2**63:
    raise InputError(
      f'config.{field} is {value!r}; expected a number of at least {least}'
    )
  return value


def whole(field: str, value: Any, least: int, most: int = _MOST) -> int:
  """A whole number within bounds."""
  if type(value) is not int or not least <= value <= most:
    too_many = isinstance(value, int) and value > most
    bounds = f'at least {least}' + (f' and at most {most:,}' * too_many)
    raise InputError(
      f'config.{field} is {value!r}; expected a whole number of {bounds}'
    )
  return value


def count(config: ConfigDict, field: str, least: int) -> int:
  """A field that is a whole number and must not be less."""
  return whole(field, read(config, field), least)


def widths(config: ConfigDict, field: str) -> tuple[int, ...]:
  """Widths of layers."""
  value = read(config, field)
  found = tuple(value)
  if not all(type(w) is int and 0 < w <= _MOST for w in found):
    raise InputError(
      f'config.{field} is {value!r}; expected widths of hidden layers, '
      f'positive whole numbers'
    )
  return found


def read_size(option: str, value: Any) -> int:
  """A size in bytes.

  Args:
    option: that has the value, for the message.
    value: a number with its unit.

  >>> read_size('--memory', '16GB')
  16000000000
  """
  parts = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*([MG]i?B)\s*', str(value))
  number = 0 if parts is None else float(parts[1]) * _UNITS[parts[2]]
  if not 1 <= number < 2**63:
    raise InputError(
      f'{option} is {value!r}; expected a number with its unit '
      f'({", ".join(_UNITS)}), as in 16GB'
    )
  return int(number)


def size(field: str, value: Any) -> int:
  """A field that is a size in bytes."""
  return read_size(f'config.{field}', value)
