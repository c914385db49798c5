"""Loads a config from a user's file; mistakes in it are one-line errors.

A config file is a Python program, `FILE.py` or `FILE.py:VARIANT`, whose
function `get_config` returns a `ConfigDict`. Any exception of the program
becomes an `InputError` that names the line of the user's file.
"""

import difflib
import inspect
import os
import runpy
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dlrm_jax.callable_module import path_of, shown
from dlrm_jax.config.kinds import OPEN, flatten
from dlrm_jax.errors import InputError

_SYNONYMS = {
  'lr': 'learning_rate',
  'bs': 'batch_size',
  'batch': 'batch_size',
  'embedding_dim': 'dim',
  'emb_dim': 'dim',
  'num_epochs': 'epochs',
  'num_steps': 'steps',
  'optim': 'optimizer',
}
_TYPES: dict[type, tuple[tuple[type, ...], str]] = {
  bool: ((bool,), 'True or False'),
  int: ((int,), 'a whole number'),
  float: ((int, float), 'a number'),
  str: ((str,), 'text'),
  tuple: ((list, tuple), 'a tuple, such as (64, 32)'),
}
"""Types of values allowed for a field, and their name, by type of default."""


def find(named: str) -> str:
  """The path of a config file, with its variant.

  Args:
    named: FILE.py or FILE.py:VARIANT. If FILE.py does not exist, NAME, NAME.py
      and configs/NAME.py mean the config NAME that comes with dlrm_jax.

  Raises:
    InputError: neither the file nor a config of the package exists.
  """
  file, *variant = named.split(':', 1)
  if Path(file).is_file():
    return named
  folder = Path(__file__).parents[1] / 'configs'
  packaged = folder / f'{Path(file).stem}.py'
  if str(Path(file).parent) in ('.', 'configs') and packaged.is_file():
    return ':'.join([str(packaged), *variant])
  names = (path.stem for path in folder.glob('[a-z]*.py'))
  raise InputError(
    f'--config={named}: no such file; with dlrm_jax come '
    f'{", ".join(sorted(names))}'
  )


def load(name: str) -> ConfigDict:
  """The config that FILE.py or FILE.py:VARIANT returns.

  Raises:
    InputError: the file does not exist, fails or returns no config.
  """
  path, _, variant = find(name).partition(':')
  where = f'--config={name}'
  with _FileErrors(where, path, variant):
    get_config = runpy.run_path(path).get('get_config')
  if not callable(get_config):
    raise InputError(
      f'{where}: the file has no function get_config; expected `def '
      f'get_config():` that returns a ConfigDict'
    )
  _check_variant(where, get_config, variant)
  with _FileErrors(where, path, variant):
    config = get_config(*([variant] if variant else []))
  if not isinstance(config, ConfigDict):
    what = 'None' if config is None else f'a {type(config).__name__}'
    hint = ' (is a return missing?)' if config is None else ''
    raise InputError(
      f'{where}: get_config() returns {what}{hint}; expected a ConfigDict: '
      f'begin with `config = default.get_config()` of configs/default.py, and '
      f'return it'
    )
  return config


def taken(
  config: ConfigDict | str | os.PathLike[str], defaults: Mapping[str, Any]
) -> ConfigDict:
  """A copy of the config that a function was given.

  Args:
    config: all settings, or the name of a file as `find` takes it.
    defaults: default of every field.

  Raises:
    InputError: it is neither, or a field is wrong.
  """
  if isinstance(config, str | os.PathLike):
    config = load(str(path_of('config', config)))
  if not isinstance(config, ConfigDict):
    raise InputError(
      f'config is {shown(config)}; expected a ConfigDict, as get_config() of '
      'configs/default.py gives, or the name of a file that makes one'
    )
  if wrong := next(wrong_fields(config.to_dict(), defaults), None):
    raise InputError(f'config: {wrong}')
  return config.copy_and_resolve_references()


def _check_variant(
  where: str, get_config: Callable[..., Any], variant: str
) -> None:
  parameters = inspect.signature(get_config).parameters.values()
  if variant and not parameters:
    raise InputError(
      f'{where}: the file has no variants (get_config takes no argument); '
      f'leave :{variant} out'
    )
  if not variant and any(
    p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters
  ):
    raise InputError(f'{where}: expected a variant, {where}:VARIANT')


class _FileErrors:
  """Context that turns exceptions of a config file into an `InputError`."""

  def __init__(self, where: str, path: str, variant: str) -> None:
    self._where, self._path, self._variant = where, path, variant

  def __enter__(self) -> None:
    pass

  def __exit__(self, kind: object, error: object, trace: object) -> None:
    if not isinstance(error, Exception):
      return
    what = str(error)
    if isinstance(error, (KeyError, AttributeError)):
      # The text may be quoted, with escaped line breaks.
      if what[:1] in ('"', "'") and what[:1] == what[-1:]:
        what = what[1:-1]
      what = what.replace('\\n', ' ').replace("\\'", "'")
    what = ' '.join(what.split())
    if isinstance(error, ValueError) and self._variant in what.split("'"):
      # The file itself names the variants that exist.
      raise InputError(f'{self._where}: {what}') from None
    if isinstance(error, SyntaxError):
      place, what = self._of_syntax(error)
    else:
      place, what = self._line(error), f'{type(error).__name__}: {what}'
    if isinstance(error, ModuleNotFoundError) and error.name == 'configs':
      what += '; expected: from dlrm_jax.configs import default'
    raise InputError(f'{self._where}{place}: {what}') from None

  def _of_syntax(self, error: SyntaxError) -> tuple[str, str]:
    own = error.filename in (None, self._path)
    file = '' if own else f', {error.filename}'
    return f'{file}, line {error.lineno}', f'syntax error: {error.msg}'

  def _line(self, error: Exception) -> str:
    """The innermost line of the user's file in the error's trace."""
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(error.__traceback__)
      if frame.filename == self._path
    ]
    return f', line {lines[-1]}' if lines else ''


def hint_for(name: str, section: str, known: Mapping[str, Any]) -> str:
  """A hint which field may be meant by a name that is no field.

  Args:
    name: the unknown name.
    section: dotted name of the section it stands in; '' for the whole config.
    known: a tree of all fields.
  """
  inner: Any = known
  for part in section.split('.') if section else ():
    inner = inner[part]
  if not isinstance(inner, Mapping):
    return 'see configs/default.py'
  meant = _SYNONYMS.get(name, name)
  if meant in inner:
    return f'did you mean {meant}?'
  if near := difflib.get_close_matches(name, inner, 1):
    return f'did you mean {near[0]}?'
  elsewhere = [f for f, _ in flatten(known) if f.split('.')[-1] == meant]
  if elsewhere:
    return f'did you mean config.{" or config.".join(elsewhere)}?'
  return 'see configs/default.py'


def wrong_fields(
  config: Mapping[str, Any], known: Mapping[str, Any]
) -> Iterator[str]:
  """Messages about fields of a config whose name or type is wrong.

  Args:
    config: the tree of the config.
    known: a tree of all the fields that a config has, with their defaults.
  """
  yield from _wrong(config, known, known, '')


def _wrong(
  config: Mapping[str, Any],
  section: Mapping[str, Any],
  known: Mapping[str, Any],
  name: str,
) -> Iterator[str]:
  prefix = f'{name}.' if name else ''
  for field in config:
    if field not in section:
      hint = hint_for(field, name, known)
      yield f'config.{prefix}{field}: there is no field {field}; {hint}'
  for field, default in section.items():
    full = prefix + field
    if field not in config:
      yield (
        f'config.{full} is not there; begin with `config = '
        f'default.get_config()` of configs/default.py and change its fields'
      )
    elif isinstance(default, Mapping):
      if not isinstance(config[field], Mapping):
        yield f'config.{full} is {config[field]!r}; expected its fields'
      elif full not in OPEN:
        yield from _wrong(config[field], default, known, full)
    else:
      yield from _wrong_type(full, config[field], default)


def _wrong_type(field: str, value: Any, default: Any) -> Iterator[str]:
  types, expected = _TYPES[type(default)]
  if not isinstance(value, types) or (
    isinstance(value, bool) and not isinstance(default, bool)
  ):
    yield f'config.{field} is {value!r}; expected {expected}'
