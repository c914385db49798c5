"""Flags of commands that take a config; mistakes in them end in one line."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags


def parse(argv: Sequence[str], needed: Mapping[str, str]) -> Sequence[str]:
  """Reads the flags; what is wrong with them is a user's mistake.

  Args:
    argv: as the program got it.
    needed: flags that must have a value, and what it is; 'config' among them.
  """
  try:
    rest = flags.FLAGS(argv)
    values: dict[str, Any] = flags.FLAGS.flag_values_dict()
    missing = [f'--{k}={what}' for k, what in needed.items() if not values[k]]
    if missing:
      sys.exit(f'error: {" and ".join(missing)} must be given; see --help')
    if rest[1:]:
      sys.exit(f'error: {rest[1]!r} is no flag; flags begin with --')
    values['config'].to_dict()  # a file that failed to load says so only now
    return rest
  except (KeyError, AttributeError) as error:
    message = ' '.join(str(error.args[0]).split())
    sys.exit(f'error: --config: there is no field {message}')
  except Exception as error:  # a config file is a program: all may happen
    lines = str(error).strip().splitlines() or [repr(error)]
    sys.exit(f'error: {lines[-1].strip()}')
