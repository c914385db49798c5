"""Modules that can be called, as functions of their name, and their arguments.

`dlrm_jax.train` is the module of a command, and `dlrm_jax.train(config,
workdir)` does what the command does. Python lets a module have a class of its
own; that of these modules has `__call__`.
"""

import inspect
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlrm_jax.errors import InputError

_LONGEST = 60
"""Characters of a value that an error message shows."""


def make_callable(name: str, function: Callable[..., Any]) -> None:
  """Makes a module callable.

  Args:
    name: full name of the module.
    function: what calling it calls.
  """
  kind = type(types.ModuleType)(
    types.ModuleType.__name__,
    (types.ModuleType,),
    {
      '__call__': staticmethod(function),
      '__signature__': inspect.signature(function),
    },
  )
  sys.modules[name].__class__ = kind


def shown(value: object) -> str:
  """A value of any type, for a message of one line.

  >>> shown('x'), shown(None), shown(object())
  ("'x'", 'None', 'an object of type object')
  """
  text = repr(value)
  short = len(text) <= _LONGEST and '\n' not in text
  if short and type(value).__repr__ is not object.__repr__:
    return text
  return f'an object of type {type(value).__name__}'


def path_of(name: str, value: str | os.PathLike[str]) -> Path:
  """The path that an argument is.

  Args:
    name: name of the argument.
    value: its value.

  Raises:
    InputError: it is no path.
  """
  if not isinstance(value, str | os.PathLike) or not os.fspath(value):
    raise InputError(
      f'{name} is {shown(value)}; expected a text or a path that names it'
    )
  return Path(value)
