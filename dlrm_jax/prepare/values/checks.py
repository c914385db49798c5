"""Checks of the values of `config.data.raw`; messages name the field."""

import difflib
from collections.abc import Collection, Iterable

from dlrm_jax.errors import InputError

FIELD = 'data.raw'


def meant(name: str, names: Iterable[str]) -> str:
  """A hint at the name that was meant, or ''."""
  close = difflib.get_close_matches(name, list(names), 1)
  return f' (did you mean {close[0]!r}?)' if close else ''


def check_keys(
  field: str, keys: Iterable[object], known: Collection[str]
) -> None:
  """Raises an `InputError` for the first unknown key."""
  for key in keys:
    if key not in known:
      raise InputError(
        f'config.{field} has an unknown key {key!r}{meant(str(key), known)}; '
        f'expected of {", ".join(known)}'
      )


def read_name(field: str, value: object) -> str:
  """Checks that the value of a field is a text that is not empty."""
  if not isinstance(value, str) or not value:
    raise InputError(f'config.{field} is {value!r}; expected a name')
  return value


def one_of(field: str, value: object, words: Collection[str]) -> str:
  """Checks that the value of a field is one of some words."""
  if not isinstance(value, str) or value not in words:
    raise InputError(
      f'config.{field} is {value!r}; expected one of {", ".join(words)}'
    )
  return value
