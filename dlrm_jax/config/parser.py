"""The argument parser of all commands."""

import argparse
import difflib
import numbers
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dlrm_jax.callable_module import shown
from dlrm_jax.errors import InputError

_WRONG_TYPE = re.compile(r"argument (--\w+): invalid (int|float) value: '(.*)'")
_TYPES = {'int': 'a whole number', 'float': 'a number'}


_TRAIN = 'python train.py'


def train_command() -> str:
  """What starts a training in this folder: our train.py, where it is here."""
  here, ours = Path('train.py'), Path(__file__).parents[2] / 'train.py'
  same = here.exists() and ours.exists() and here.samefile(ours)
  return _TRAIN if same else 'dlrm-train'


def _is_word(value: object) -> bool:
  """Whether a value of Python can be the value of a flag."""
  if isinstance(value, str):
    return len(value.splitlines()) < 2
  number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return number or isinstance(value, os.PathLike)


class Parser(argparse.ArgumentParser):
  """Parses flags; a wrong one raises an `InputError` of one line.

  `--help` exits with status 0. Flags cannot be abbreviated.
  """

  def __init__(self, **options: Any) -> None:
    options.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
    options.setdefault('allow_abbrev', False)
    text = options.get('description') or ''
    options['description'] = text.replace(_TRAIN, train_command())
    self._flags: dict[str, argparse.Action] = {}
    super().__init__(**options)

  def error(self, message: str) -> NoReturn:
    """Raises an `InputError`."""
    if wrong := _WRONG_TYPE.fullmatch(message):
      message = f'{wrong[1]}={wrong[3]}: expected {_TYPES[wrong[2]]}'
    raise InputError(f'{message} (see {self.prog} --help)')

  def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
    """Adds a flag."""
    flag = super().add_argument(*names, **settings)
    if f'--{flag.dest}' in names and flag.dest != 'help':
      self._flags[flag.dest] = flag
    return flag

  def read(self, options: Mapping[str, Any]) -> argparse.Namespace:
    """Parses the arguments of a function that does what the command does.

    Args:
      options: values of flags, by names without dashes. None is the default; a
        list is for a flag that takes several values, True for a flag that is
        given without a value.

    Raises:
      InputError: there is no such flag, or it cannot have such a value.
    """
    words = [word for x in options.items() for word in self._words(*x)]
    return self.parse_args(words)

  def _words(self, name: str, value: Any) -> Iterator[str]:
    """Words of a command line that give a flag a value of Python."""
    if name not in self._flags:
      near = difflib.get_close_matches(name, self._flags, 1)
      self.error(
        f'there is no option --{name}'
        + (f'; did you mean --{near[0]}?' if near else '')
      )
    takes = self._flags[name].nargs  # 0: no value, '?': perhaps one
    if value is None:
      return
    if isinstance(value, bool) and takes in (0, '?'):
      if value:
        yield f'--{name}'
      return
    several = takes == '+' and isinstance(value, list | tuple)
    values = value if several else [value]
    if takes == 0 or not values or not all(map(_is_word, values)):
      expected = 'True or False'
      if takes != 0:
        expected = 'a text of one line, a number or a path'
      if takes == '+':
        expected += ', or a list of them'
      self.error(f'--{name} is {shown(value)}; expected {expected}')
    # With `=`, so that a value may begin with a dash.
    yield from (f'--{name}={x}' for x in values)

  def add_data(self, help: str, *, required: bool = False) -> None:
    """Adds --data, which takes several paths (see `split_values`)."""
    self.add_argument(
      '--data',
      nargs='+',
      action='extend',
      required=required,
      metavar='PATH',
      help=help,
    )

  def add_on_bad_row(self, skip: str = 'skip and count it') -> None:
    """Adds --on_bad_row.

    Args:
      skip: what happens to a bad row that is skipped, in the help.
    """
    self.add_argument(
      '--on_bad_row',
      choices=('stop', 'skip'),
      default='stop',
      help=f'stop at a bad row (default), or {skip}',
    )

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
