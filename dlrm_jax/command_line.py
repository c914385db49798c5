"""Flags of commands that take a config; mistakes in them end in one line."""

import difflib
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from dlrm_jax.errors import InputError

_EXPECTED = {
  'invalid literal for int': 'expected a whole number',
  'could not convert string to float': 'expected a number',
}
_FREE = ('tables.features', 'data.raw')
"""Fields whose keys are not the same in all configs; others check them."""


def find_config(named: str) -> str:
  """Returns the path of a config; those of the package need only a name.

  Args:
    named: FILE.py or FILE.py:VARIANT. Where FILE.py does not exist, NAME,
      NAME.py and configs/NAME.py are configs that come with dlrm_jax.

  Raises:
    InputError: there is no such file, here or in the package.
  """
  file, *variant = named.split(':', 1)
  if Path(file).is_file():
    return named
  folder = Path(__file__).parent / 'configs'
  packaged = folder / f'{Path(file).stem}.py'
  if str(Path(file).parent) in ('.', 'configs') and packaged.is_file():
    return ':'.join([str(packaged), *variant])
  names = (path.stem for path in folder.glob('[a-z]*.py'))
  raise InputError(
    f'--config={named}: no such file; with dlrm_jax come '
    f'{", ".join(sorted(names))}'
  )


def _with_paths(argv: Sequence[str]) -> list[str]:
  """`argv`, its configs replaced by what `find_config` finds."""
  found = list(argv)
  for i, arg in enumerate(found):
    name, equals, value = arg.partition('=')
    if name not in ('--config', '-config'):
      continue
    if equals and value:
      found[i] = f'{name}={find_config(value)}'
    elif not equals and i + 1 < len(found):
      found[i + 1] = find_config(found[i + 1])
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
  for arg, after in zip(argv, [*argv[1:], ''], strict=True):
    if found := re.fullmatch(r'--?config(?:=(.*))?', arg):
      return after if found[1] is None else found[1]
  return ''


def _unknown_field(argv: Sequence[str], error: Exception) -> str | None:
  """The flag that names a field which the config does not have.

  Args:
    argv: as the program got it.
    error: its text names the part of the dotted name that is wrong.
  """
  text = str(error).replace('\\', '')
  if looked_up := re.search(r'Attempting to lookup: ([\w.]+)', text):
    return f'--config.{looked_up[1]}: there is no such field'
  named = re.search(r"'(\w+)'", text)
  better = re.search(r'Did you mean "(\w+)"', text)
  for arg in argv:
    option = arg.split('=', 1)[0]
    parts = option.lstrip('-').split('.')
    if parts[0] == 'config' and named and named[1] in parts[1:]:
      hint = f'; did you mean {better[1]}?' if better else ''
      return f'{option}: there is no field {named[1]}{hint}'
  return None


def _message(argv: Sequence[str], error: Exception) -> str:
  """A mistake in one line."""
  found = None
  if isinstance(error, (KeyError, AttributeError)):
    found = _unknown_field(argv, error)
  if found is not None:
    return found
  lines = str(error).strip().splitlines() or [repr(error)]
  last = lines[-1].strip()
  if isinstance(error, flags.Error) and len(lines) == 1:
    for python, expected in _EXPECTED.items():
      last = re.sub(rf'{python}.*', expected, last)
    return re.sub(r'^flag ', '', last)
  # A config file is a program: all may happen in it.
  if not isinstance(error, (flags.Error, OSError, ValueError)):
    last = f'{type(error).__name__}: {last}'
  if isinstance(error, ModuleNotFoundError) and error.name == 'configs':
    last += '; expected: from dlrm_jax.configs import default'
  said = re.sub(r'^ValueError: ', '', last)
  return f'--config={_config_file(argv)}: {said}'


def _unknown(
  given: Mapping[str, Any], known: Mapping[str, Any], prefix: str = ''
) -> Iterator[str]:
  """Fields of a config that are not known, and what may have been meant."""
  for name, value in given.items():
    field = prefix + name
    if name not in known:
      near = difflib.get_close_matches(name, known, 1)
      hint = f'did you mean {near[0]}?' if near else 'see configs/default.py'
      yield f'config.{field}: there is no field {name}; {hint}'
    elif isinstance(value, Mapping) and field not in _FREE:
      yield from _unknown(value, known[name], f'{field}.')


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
  except InputError as error:
    sys.exit(f'error: {error}')
  try:
    rest = flags.FLAGS(argv)
    values: dict[str, Any] = flags.FLAGS.flag_values_dict()
    missing = [f'--{k}={what}' for k, what in needed.items() if not values[k]]
    if missing:
      sys.exit(f'error: {" and ".join(missing)} must be given; see --help')
    if rest[1:]:
      sys.exit(f'error: {rest[1]!r} is no flag; flags begin with --')
    # A file that failed to load says so only now.
    if unknown := next(_unknown(values['config'].to_dict(), known), None):
      raise InputError(unknown)
    return rest
  except Exception as error:
    sys.exit(f'error: {_message(argv, error)}')


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
