"""Modules that can be called, as functions of their name.

`dlrm_jax.train` is the module of a command, and `dlrm_jax.train(config,
workdir)` does what the command does. Python lets a module have a class of its
own; that of these modules has `__call__`.
"""

import sys
import types
from collections.abc import Callable
from typing import Any


def make_callable(name: str, function: Callable[..., Any]) -> None:
  """Makes a module callable.

  Args:
    name: full name of the module.
    function: what calling it calls.
  """
  kind = type(types.ModuleType)(
    types.ModuleType.__name__,
    (types.ModuleType,),
    {'__call__': staticmethod(function)},
  )
  sys.modules[name].__class__ = kind


def words(options: dict[str, Any]) -> list[str]:
  """Options of a function as the words of a command line.

  >>> words({'input': ['a', 'b'], 'overwrite': True, 'seed': 3, 'splits': None})
  ['--input', 'a', 'b', '--overwrite', '--seed=3']
  """
  found: list[str] = []
  for name, value in options.items():
    if value is None or value is False:
      continue
    if value is True:
      found.append(f'--{name}')
    elif isinstance(value, list | tuple):
      found += [f'--{name}', *map(str, value)]
    else:
      found.append(f'--{name}={value}')
  return found
