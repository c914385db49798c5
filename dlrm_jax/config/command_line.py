"""Flags of commands that take a config: --config=FILE, --config.FIELD=VALUE."""

import argparse
import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.config import config_file
from dlrm_jax.config.kinds import OPEN
from dlrm_jax.config.parser import Parser
from dlrm_jax.config.unused import unused
from dlrm_jax.errors import InputError

_FEATURES = 'tables.features.'
_BOOLEANS = dict.fromkeys(('true', 't', '1'), True)
_BOOLEANS |= dict.fromkeys(('false', 'f', '0'), False)


class _FieldFlag(NamedTuple):
  """A flag that sets a field of the config.

  Attributes:
    field: dotted name of the field.
    value: text of the value; None: the flag has no value.
  """

  field: str
  value: str | None


def _split_fields(argv: Sequence[str]) -> tuple[list[_FieldFlag], list[str]]:
  """Flags of fields, `--config.FIELD=VALUE`, apart from all other words."""
  words, fields, others = list(argv), [], []
  while words:
    word = words.pop(0)
    if not word.startswith('--config.'):
      others.append(word)
      continue
    field, equals, value = word.removeprefix('--config.').partition('=')
    if not equals and words and not words[0].startswith('--'):
      equals, value = '=', words.pop(0)
    fields.append(_FieldFlag(field, value if equals else None))
  return fields, others


def _literal(text: str) -> Any:
  """The Python literal that a text is, or else the text."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def _boolean(text: str) -> bool:
  value = _BOOLEANS.get(text.lower())
  if value is None:
    raise ValueError
  return value


def _tuple(text: str) -> tuple[Any, ...]:
  """A tuple; `64,32` and `(64, 32)` are two numbers, `a,b` two texts."""
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return tuple(text.split(',')) if text else ()
  return tuple(value) if isinstance(value, tuple | list) else (value,)


def _dict(text: str) -> ConfigDict:
  value = _literal(text)
  if not isinstance(value, dict):
    raise ValueError
  return ConfigDict(value, allow_dotted_keys=True)


_READERS: dict[type, tuple[Callable[[str], Any], str]] = {
  bool: (_boolean, 'true or false'),
  int: (lambda text: int(text, 0), 'a whole number'),
  float: (float, 'a number'),
  str: (str, 'a text'),
  tuple: (_tuple, 'a tuple, such as (64, 32)'),
  ConfigDict: (_dict, "fields, such as {'NAME': VALUE}"),
}
"""How the text of a value is read, and what is expected, by type of field."""


def _set_feature(config: ConfigDict, flag: _FieldFlag) -> Any:
  """Sets a field of a feature, whose name may have dots; returns its value."""
  name = flag.field.removeprefix(_FEATURES)
  feature, _, field = name.rpartition('.')
  if not feature or flag.value is None:
    raise InputError(
      f'--config.{flag.field}: expected '
      f'--config.{_FEATURES}FEATURE.FIELD=VALUE, such as '
      f'--config.{_FEATURES}C3.placement=table_wise'
    )
  features = config.tables.features
  old = features.get(feature, {})
  old = old.to_dict() if isinstance(old, ConfigDict) else old
  value = _literal(flag.value)
  with features.unlocked():
    features[feature] = {**old, field: value}
  return value


def _no_such_field(
  flag: _FieldFlag, section: str, name: str, known: Mapping[str, Any]
) -> InputError:
  """The error of a flag whose field does not exist.

  Args:
    flag: the flag.
    section: dotted name of the innermost section that exists.
    name: name that is not in it.
    known: a tree of all fields.
  """
  if section.startswith(OPEN):
    hint = f'give all of it, as in --config.{section}="{{\'NAME\': ...}}"'
  else:
    hint = config_file.hint_for(name, section, known)
  return InputError(f'--config.{flag.field}: there is no field {name}; {hint}')


def _set_field(
  config: ConfigDict, flag: _FieldFlag, known: Mapping[str, Any]
) -> Any:
  """Sets a field to a value of its type; returns the value."""
  if flag.field.startswith(_FEATURES):
    return _set_feature(config, flag)
  section: Any = config
  names = flag.field.split('.')
  for depth, name in enumerate(names):
    if not isinstance(section, ConfigDict) or name not in section:
      raise _no_such_field(flag, '.'.join(names[:depth]), name, known)
    if depth < len(names) - 1:
      section = section[name]
  field_type = section.get_type(names[-1])
  text = flag.value
  if text is None:
    if field_type is not bool:
      raise InputError(f'--config.{flag.field}: expected a value')
    text = 'true'
  read, expected = _READERS.get(field_type, (_literal, ''))
  try:
    section[names[-1]] = read(text)
  except (ValueError, TypeError):
    raise InputError(
      f'--config.{flag.field}={text}: expected {expected}'
    ) from None
  return section[names[-1]]


def set_field(
  config: ConfigDict, field: str, text: str, known: Mapping[str, Any]
) -> Any:
  """Sets a field as the flag `--config.FIELD=TEXT` does.

  Args:
    config: the config; it is changed.
    field: dotted name.
    text: text of the value.
    known: a tree of all the fields that a config may have.

  Returns:
    The value.

  Raises:
    InputError: there is no such field, or it cannot have this value.
  """
  return _set_field(config, _FieldFlag(field, text), known)


def add_config(parser: Parser) -> None:
  """Adds --config to the flags of a command; `read_flags` parses them."""
  parser.add_required(
    '--config',
    'FILE',
    'file of configs/: FILE.py, or FILE.py:VARIANT; --config.FIELD=VALUE sets '
    'a field of it',
  )


def read_flags(
  parser: Parser, argv: Sequence[str], known: Mapping[str, Any]
) -> argparse.Namespace:
  """Parses flags, loads the config and sets the fields that flags name.

  Args:
    parser: parser of the other flags; `add_config` was called with it.
    argv: arguments of the program.
    known: a tree of all the fields that a config may have.

  Returns:
    All flags; `config` is a locked ConfigDict, `config_name` what --config
    names.

  Raises:
    InputError: a flag, the config file or a field of it is wrong.
  """
  fields, others = _split_fields(argv)
  flags = parser.parse_args(others)
  files = [word for word in others if re.match('--config(=|$)', word)]
  if len(files) > 1:
    raise InputError(
      f'--config is given {len(files)} times; expected one file, whose fields '
      f'flags can change'
    )
  config = config_file.load(flags.config)
  wrong = next(config_file.wrong_fields(config.to_dict(), known), None)
  if wrong:
    raise InputError(f'--config={flags.config}: {wrong}')
  for flag in fields:
    _set_field(config, flag, known)
  wrong = next(config_file.wrong_fields(config.to_dict(), known), None)
  if wrong:
    raise InputError(
      f'flags of the config: {wrong.partition("; begin with")[0]}; a flag of a '
      f'whole part of the config replaces all its fields: set them one by one, '
      f'as in --config.model.dim=16'
    )
  flags.config_name, flags.config = flags.config, config.lock()
  return flags


def notes_of_unused(
  argv: Sequence[str],
  config: ConfigDict,
  known: Mapping[str, Any],
  started: bool = False,
) -> list[str]:
  """Notes of fields whose values have no effect, a line each.

  Args:
    argv: arguments of the program.
    config: the config with the fields that flags set.
    known: a tree of all fields, with their defaults.
    started: whether the run was started before. An earlier version may have
      accepted such fields, so none is refused then.

  Raises:
    InputError: a flag sets such a field, or a single feature has it.
  """
  set_by_flag = {flag.field for flag in _split_fields(argv)[0]}
  notes = []
  for field in unused(config.to_dict(), known):
    explicit = field.of_feature or field.field in set_by_flag
    if explicit and not started:
      raise InputError(f'{field}; leave it out')
    if explicit or not field.usual:
      notes.append(str(field))
  return notes
