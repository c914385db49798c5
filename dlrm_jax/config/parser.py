"""The argument parser of all commands."""

import argparse
import re
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from dlrm_jax.errors import InputError

_WRONG_TYPE = re.compile(r"argument (--\w+): invalid (int|float) value: '(.*)'")
_TYPES = {'int': 'a whole number', 'float': 'a number'}


class Parser(argparse.ArgumentParser):
  """Parses flags; a wrong one raises an `InputError` of one line.

  `--help` exits with status 0. Flags cannot be abbreviated.
  """

  def __init__(self, **options: Any) -> None:
    options.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
    options.setdefault('allow_abbrev', False)
    super().__init__(**options)

  def error(self, message: str) -> NoReturn:
    """Raises an `InputError`."""
    if wrong := _WRONG_TYPE.fullmatch(message):
      message = f'{wrong[1]}={wrong[3]}: expected {_TYPES[wrong[2]]}'
    raise InputError(f'{message} (see {self.prog} --help)')

  def add_checkpoint(self, of: str = '') -> None:
    """Adds --checkpoint, the checkpoint of a run to use.

    Args:
      of: when the flag counts, in the help.
    """
    self.add_argument(
      '--checkpoint',
      default='best',
      help=f'{of}best (by the objective), latest, or a step (default: best)',
    )

  def add_required(self, flag: str, metavar: str, help: str) -> None:
    """Adds a flag that must be given a text that is not empty."""

    def text(value: str) -> str:
      if not value:
        raise argparse.ArgumentTypeError(f'{flag}={metavar} must be given')
      return value

    self.add_argument(
      flag, required=True, metavar=metavar, type=text, help=help
    )


def split_values(argv: Sequence[str], flags: Collection[str]) -> list[str]:
  """Arguments that argparse understands: it takes no `--input=A B`.

  Args:
    argv: arguments of the program.
    flags: names of flags that take several values.

  >>> split_values(['--input=A', 'B', '--output=C'], ['--input'])
  ['--input', 'A', 'B', '--output=C']
  """
  words: list[str] = []
  for word in argv:
    several = word.startswith(tuple(f'{flag}=' for flag in flags))
    words.extend(word.split('=', 1) if several else [word])
  return words
