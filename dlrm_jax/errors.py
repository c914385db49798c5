"""How commands end: mistakes of a user in one line, signals with a status."""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from absl import logging


class InputError(ValueError):
  """A user's file, option or config is wrong.

  The message is one line (or a short list). It names the file, line, table or
  key, the value found, the value expected, and the remedy.
  """

  def _render_traceback_(self) -> list[str]:
    """The lines that a notebook shows instead of a traceback."""
    return [f'error: {self}']


class Ended(KeyboardInterrupt):
  """A signal ends the command; raised in the main thread, so that files close.

  Attributes:
    number: number of the signal.
  """

  def __init__(self, number: int) -> None:
    super().__init__(signal.Signals(number).name)
    self.number = number


UNDONE = (
  'ended before the work was done; the same command goes on where that can be, '
  'else it begins anew'
)
"""Last words of a command that a signal ended."""


def number_of(error: KeyboardInterrupt) -> int:
  """Number of the signal behind an error; SIGINT if Python itself raised it."""
  return error.number if isinstance(error, Ended) else signal.SIGINT


def status_of(number: int) -> int:
  """The exit status of a command that a signal ended, as in shells.

  >>> status_of(signal.SIGTERM), status_of(signal.SIGINT)
  (143, 130)
  """
  return 128 + number


def leave(number: int, message: str) -> NoReturn:
  """Ends this process at once because of a signal, with a last line.

  An orderly exit would wait for threads; those of XLA crash if they are still
  compiling.
  """
  line = f'{signal.Signals(number).name}: {message}\n'
  if os.isatty(2):
    line = f'\n{line}'  # a progress bar may stand on the line
  os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())
  os._exit(status_of(number))


def end_at_once() -> None:
  """Lets SIGTERM and Ctrl-C end this process at once, without saving."""

  def end(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    os._exit(status_of(number))

  for number in heard(signal.SIGTERM, signal.SIGINT):
    signal.signal(number, end)


def heard(*numbers: int) -> list[int]:
  """The signals, of those given, that are neither ignored nor foreign.

  `nohup` makes a process ignore SIGHUP, and a script's `command &` makes it
  ignore SIGINT; both must stay ignored. Python cannot put back a handler that
  another language has set, which is None.
  """
  return [
    n for n in numbers if signal.getsignal(n) not in (signal.SIG_IGN, None)
  ]


@contextlib.contextmanager
def _raising() -> Iterator[None]:
  """Context in which SIGTERM, SIGHUP and Ctrl-C raise `Ended`."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def end(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise Ended(number)

  numbers = heard(signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
  old = {number: signal.signal(number, end) for number in numbers}
  try:
    yield
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)


def exit_cleanly(main: Callable[..., int | None]) -> Callable[..., int]:
  """Wraps a command's `main`, which then returns the exit status.

  An `InputError` is printed in one line, and the status is 1. Every other
  exception is a defect of the program and keeps its traceback. A signal ends
  the command with one line and the status 128 plus its number; a reader of
  its output that has gone (`| head`) ends it without a word, as SIGPIPE does.
  Libraries log errors only.

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
      with _raising():
        status = main(*args, **kwargs) or 0
        sys.stdout.flush()
      return status
    except InputError as error:
      print(f'error: {error}', file=sys.stderr)
      return 1
    except BrokenPipeError:
      os._exit(status_of(signal.SIGPIPE))
    except KeyboardInterrupt as error:
      sys.stdout.flush()
      leave(number_of(error), UNDONE)

  return wrapped
