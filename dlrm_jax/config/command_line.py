"""Flags of commands that take a config; mistakes in them end in one line."""

import ast
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict

from dlrm_jax.config import config_file
from dlrm_jax.config.kinds import OPEN
from dlrm_jax.config.unused import unused
from dlrm_jax.errors import InputError

_EXPECTED = {
  'invalid literal for int': 'expected a whole number',
  'could not convert string to float': 'expected a number',
  '.*Non-boolean argument': 'expected true or false',
}
_FEATURES = 'config.tables.features.'


def _split(argv: Sequence[str]) -> Iterator[tuple[str, str | None, list[str]]]:
  """Flags with their values, each with the words that it was made of."""
  words = list(argv)
  while words:
    word = words.pop(0)
    name, equals, value = word.partition('=')
    if not name.startswith('-') or equals:
      found = value if equals else None
      yield (name.lstrip('-') if name.startswith('-') else ''), found, [word]
    elif name.lstrip('-').split('.')[0] == 'config' and (
      words and not words[0].startswith('-')
    ):
      yield name.lstrip('-'), words[0], [word, words.pop(0)]
    else:
      yield name.lstrip('-'), None, [word]


def _with_paths(argv: Sequence[str]) -> list[str]:
  """`argv`, its configs replaced by what `config_file.find` finds."""
  found = list(argv)
  for i, arg in enumerate(found):
    name, equals, value = arg.partition('=')
    if name not in ('--config', '-config'):
      continue
    if equals and value:
      found[i] = f'{name}={config_file.find(value)}'
    elif not equals and i + 1 < len(found):
      found[i + 1] = config_file.find(found[i + 1])
  return found


def spread(argv: Sequence[str], names: Collection[str]) -> list[str]:
  """Arguments for argparse, which takes --input=A, but not A of --input=A B.

  Args:
    argv: as the program got it.
    names: flags that take several values.
  """
  parts: list[str] = []
  for arg in argv:
    split = arg.startswith(tuple(f'{name}=' for name in names))
    parts.extend(arg.split('=', 1) if split else [arg])
  return parts


def _config_file(argv: Sequence[str]) -> str:
  """What --config names: FILE.py, or FILE.py:VARIANT."""
  named = [value or '' for name, value, _ in _split(argv) if name == 'config']
  if len(named) > 1:
    raise InputError(
      f'--config is given {len(named)} times ({", ".join(named)}); expected '
      f'one file, whose fields flags can change'
    )
  return named[0] if named else ''


def _unknown_field(
  argv: Sequence[str], error: Exception, known: Mapping[str, Any]
) -> str | None:
  """The flag that names a field which the config does not have.

  Args:
    argv: as the program got it.
    error: its text names the part of the dotted name that is wrong.
    known: a tree of all fields.
  """
  text = str(error).replace('\\', '')
  if looked_up := re.search(r'Attempting to lookup: ([\w.]+)', text):
    return f'--config.{looked_up[1]}: there is no such field'
  named = re.search(r"'(\w+)'", text)
  for option, _, _ in _split(argv):
    first, *parts = option.split('.')
    if first == 'config' and named and named[1] in parts:
      section = '.'.join(parts[: parts.index(named[1])])
      if section in OPEN:
        hint = f'give all of it, as in --config.{section}="{{\'NAME\': ...}}"'
      else:
        hint = config_file.hint_for(named[1], section, known)
      return f'--{option}: there is no field {named[1]}; {hint}'
  return None


def _message(
  argv: Sequence[str], error: Exception, known: Mapping[str, Any]
) -> str:
  """A mistake in one line."""
  found = None
  if isinstance(error, (KeyError, AttributeError)):
    found = _unknown_field(argv, error, known)
  if found is not None:
    return found
  last = (str(error).strip().splitlines() or [repr(error)])[-1].strip()
  for python, expected in _EXPECTED.items():
    last = re.sub(rf'(: )\(?.?{python}.*', rf'\1{expected}', last)
  return re.sub(r'^flag ', '', last)


def _feature_flags(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
  """Flags that set a field of a feature, apart from the others."""
  others, found = [], {}
  for name, value, words in _split(argv):
    if not name.startswith(_FEATURES):
      others += words
      continue
    parts = name.removeprefix(_FEATURES).rsplit('.', 1)
    if len(parts) != 2 or value is None:
      raise InputError(
        f'{words[0]}: expected --{_FEATURES}FEATURE.FIELD=VALUE, such as '
        f'--{_FEATURES}C3.placement=table_wise'
      )
    try:
      found[tuple(parts)] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      found[tuple(parts)] = value
  return others, found


def _set_features(config: ConfigDict, given: Mapping[str, Any]) -> None:
  features = config.tables.features
  with features.unlocked():
    for (feature, field), value in given.items():
      old = features.get(feature, {})
      old = old.to_dict() if isinstance(old, ConfigDict) else old
      features[feature] = {**old, field: value}


def _set_texts(config: ConfigDict, argv: Sequence[str]) -> None:
  """Cuts lists of texts: `--config.data.raw.sparse=a,b` are two."""
  for name, value, _ in _split(argv):
    first, *parts = name.split('.')
    if name.startswith(_FEATURES):
      continue  # set by ourselves; their names may have dots
    if first == 'config' and parts and value and ',' in value:
      *sections, last = parts
      inner: Any = config
      for section in sections:
        inner = inner[section]
      if inner[last] == (value,):
        inner[last] = tuple(value.split(','))


class _Loaded(flags.ArgumentParser):
  """Gives the flag what was loaded from its file, which so runs only once."""

  def __init__(self, config: ConfigDict) -> None:
    self._config = config.lock()

  def parse(self, argument: str) -> ConfigDict:
    """The config, whose fields other flags change."""
    del argument
    return self._config


def parse(
  argv: Sequence[str], needed: Mapping[str, str], known: Mapping[str, Any]
) -> Sequence[str]:
  """Reads the flags; what is wrong with them is a user's mistake.

  Args:
    argv: as the program got it.
    needed: flags that must have a value, and what it is; 'config' among them.
    known: a tree of all the fields that a config may have.
  """
  try:
    argv = _with_paths(argv)
    if file := _config_file(argv):
      # By ourselves: flags tell mistakes of the file without its lines.
      given = config_file.load(file)
      wrong = next(config_file.wrong_fields(given.to_dict(), known), None)
      if wrong:
        raise InputError(f'--config={file}: {wrong}')
      flags.FLAGS['config'].parser = _Loaded(given)
    others, of_features = _feature_flags(argv)
    sys.argv = others  # where the library looks for fields of the config
    rest = flags.FLAGS(others)
    values: dict[str, Any] = flags.FLAGS.flag_values_dict()
    missing = [f'--{k}={what}' for k, what in needed.items() if not values[k]]
    if missing:
      raise InputError(f'{" and ".join(missing)} must be given; see --help')
    if rest[1:]:
      raise InputError(f'{rest[1]!r} is no flag; flags begin with --')
    _set_features(values['config'], of_features)
    _set_texts(values['config'], argv)
    return rest
  except InputError as error:
    sys.exit(f'error: {error}')
  except Exception as error:
    sys.exit(f'error: {_message(argv, error, known)}')


def run(
  main: Callable[[Sequence[str]], int],
  define_flags: Callable[[], None],
  needed: Mapping[str, str],
  known: Mapping[str, Any],
) -> None:
  """Runs a command whose flags are absl's, and exits with its status.

  Args:
    main: what it does; --help prints the docstring of its module.
    define_flags: defines its flags; --help lists them.
    needed: as for `parse`.
    known: as for `parse`.
  """
  before = set(flags.FLAGS)
  define_flags()
  for name in set(flags.FLAGS) - before:
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  module = sys.modules[main.__module__]
  sys.modules['__main__'].__doc__ = module.__doc__
  app.run(main, flags_parser=lambda argv: parse(argv, needed, known))


def notes_of_unused(
  argv: Sequence[str],
  config: ConfigDict,
  known: Mapping[str, Any],
  started: bool = False,
) -> list[str]:
  """Fields whose values have no effect, a line each.

  Args:
    argv: as the program got it.
    config: with flags.
    known: a tree of all fields, with their defaults.
    started: whether the run was started before, maybe by a version that took
      such fields: then none is refused.

  Raises:
    InputError: such a field is given by a flag, or for a single feature.
  """
  by_flag = {name.removeprefix('config.') for name, _, _ in _split(argv)}
  notes = []
  for found in unused(config.to_dict(), known):
    asked = found.of_feature or found.field in by_flag
    if asked and not started:
      raise InputError(f'{found}; leave it out')
    if asked or not found.usual:
      notes.append(str(found))
  return notes
