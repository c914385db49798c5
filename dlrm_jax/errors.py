"""Mistakes of a user, told in one line: what is wrong, where, the fix."""

import functools
import sys
from collections.abc import Callable

from absl import logging


class InputError(ValueError):
  """A user's file, option or config is wrong.

  The message is one line (or a short list) that names the file, line, table
  or key, the value found, what was expected, and what to do about it.
  """


def exit_cleanly(main: Callable[..., int | None]) -> Callable[..., int]:
  """Wraps a command's `main`: an `InputError` is printed, status 1, no trace.

  Every other exception is a defect of the program and keeps its traceback.
  What the libraries log below errors is for their authors, and left out.

  >>> @exit_cleanly
  ... def main():
  ...   raise InputError('train.txt, line 3: label is 2; expected 0 or 1')
  >>> main()
  1
  """

  @functools.wraps(main)
  def wrapped(*args: object, **kwargs: object) -> int:
    logging.set_verbosity(logging.ERROR)
    try:
      return main(*args, **kwargs) or 0
    except InputError as error:
      print(f'error: {error}', file=sys.stderr)
      return 1
    except KeyboardInterrupt:
      print('interrupted', file=sys.stderr)
      return 130

  return wrapped
