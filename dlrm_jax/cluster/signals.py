"""Signals that end a run after it has saved.

The signals are SIGTERM, Ctrl-C, SIGHUP (the terminal was closed) and SIGUSR1
(the warning that Slurm sends with --signal=USR1@SECONDS). During training the
first signal is noted; the run saves and ends. A second one ends it at once.
Before the first step and after the last one nothing has to be saved, and the
first signal ends the run at once, even while XLA compiles.

A run that a program or a notebook started as a function may not end their
process. There `Ended`, a `KeyboardInterrupt`, is raised instead, as soon as
Python runs signal handlers; and in a thread other than the main one, which no
signal reaches, all signals do what they did before.

A scheduler may signal one process, or all processes at different moments; all
must stop after the same step, since all write the checkpoint.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, Self

from dlrm_jax.cluster import agreement
from dlrm_jax.errors import Ended, heard, leave

_NUMBERS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1
_SAVED = 'nothing that was trained is lost; the same command goes on from there'
_UNSAVED = 'ended at once, without saving; the same command goes on from the '
_UNSAVED += 'last checkpoint'


class _Pipe:
  """Signals of this process, which a thread of its own reads from a pipe."""

  def __init__(self, receive: Callable[[int], None]) -> None:
    """Begins to read.

    Args:
      receive: called with the number of each signal, in the thread.
    """
    reading_end, self._writing_end = os.pipe()
    os.set_blocking(self._writing_end, False)
    self._old = signal.set_wakeup_fd(
      self._writing_end, warn_on_full_buffer=False
    )

    def listen() -> None:
      with open(reading_end, 'rb', buffering=0) as numbers:
        while number := numbers.read(1):
          if number[0] in _NUMBERS:
            receive(number[0])

    threading.Thread(target=listen, daemon=True).start()

  def close(self) -> None:
    """Ends the thread."""
    signal.set_wakeup_fd(self._old)
    os.close(self._writing_end)


class Signals:
  """Context in which signals end the run as this module describes.

  Python runs a signal handler only between two of its own instructions, which
  may be minutes apart while XLA compiles. So a thread reads the signals from a
  pipe, unless they are raised.
  """

  def __init__(self, raises: bool = False) -> None:
    """Sets no handler yet.

    Args:
      raises: whether a signal that ends the run raises `Ended` in the main
        thread, or ends the process.
    """
    self._raises = raises

  def __enter__(self) -> Self:
    self._noted, self._holding = 0, False
    # A handler may run while its own thread holds the lock.
    self._lock = threading.RLock()
    self._largest = agreement.Largest()
    self._pipe: _Pipe | None = None
    self._old: dict[int, Any] = {}
    if threading.current_thread() is not threading.main_thread():
      return self
    if not self._raises:
      self._pipe = _Pipe(self._receive)
    for number in heard(*_NUMBERS):
      self._old[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *error: object) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)
    if self._pipe is not None:
      self._pipe.close()

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self._raises:
      self._receive(number)

  def _receive(self, number: int) -> None:
    with self._lock:
      before, self._noted = self._noted, number
      # Noted in any case: where `Ended` is lost, as in a callback of a library,
      # the run ends after its next step.
      if before or not self._holding:
        self._end(number, _UNSAVED if before else _SAVED)

  def _end(self, number: int, message: str) -> NoReturn:
    if self._raises:
      raise Ended(number)
    leave(number, message)

  def hold(self) -> None:
    """Notes the first signal from now on, so that the run can save."""
    with self._lock:
      self._holding = True

  def release(self) -> None:
    """Lets signals end the process at once again, also the noted one."""
    with self._lock:
      self._holding = False
      if self._noted:
        self._end(self._noted, _SAVED)

  def poll(self) -> int:
    """The signal that any process had noted at the previous call; 0: none.

    All processes call this equally often; it does not wait for them. In a job
    of one process it is the signal noted now.
    """
    return self._largest(self._noted)

  def wait(self) -> int:
    """The signal that any process has noted; waits for all of them."""
    return max(agreement.from_all(self._noted))
