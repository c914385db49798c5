"""Signals that end a run: noted while it has something to save.

SIGTERM, Ctrl-C, SIGHUP (the terminal is gone) and SIGUSR1 (the warning that
Slurm's --signal=USR1@SECONDS asks for). While steps are made, the first one
is noted, the run saves and ends; a second one ends it at once. Before the
first step and after the last there is nothing to save, and the first one ends
it at once, also while XLA compiles.

A scheduler may signal one process, or all of them at different moments; yet
all must stop after the same step to save it.
"""

import os
import signal
import threading
from typing import Self

from dlrm_jax.cluster import agreement
from dlrm_jax.errors import heard, leave

_NUMBERS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1
_SAVED = 'nothing that was trained is lost; the same command goes on from there'
_UNSAVED = 'ended at once, without saving; the same command goes on from the '
_UNSAVED += 'last checkpoint'


class Signals:
  """Within it signals end the run in the ways that this file names.

  Python runs a handler only between two of its own instructions, which may
  be minutes apart while XLA compiles. So a thread is told of signals instead.
  """

  def __enter__(self) -> Self:
    self._noted, self._holding = 0, False
    self._lock = threading.Lock()
    self._largest = agreement.Largest()
    here, self._there = os.pipe()
    os.set_blocking(self._there, False)
    self._old_pipe = signal.set_wakeup_fd(
      self._there, warn_on_full_buffer=False
    )
    self._old = {
      number: signal.signal(number, lambda *_: None)
      for number in heard(*_NUMBERS)
    }
    threading.Thread(target=self._listen, args=(here,), daemon=True).start()
    return self

  def __exit__(self, *error: object) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(self._old_pipe)
    os.close(self._there)

  def _listen(self, pipe: int) -> None:
    with open(pipe, 'rb', buffering=0) as numbers:
      while number := numbers.read(1):
        if number[0] in _NUMBERS:
          self._take(number[0])

  def _take(self, number: int) -> None:
    with self._lock:
      if self._noted or not self._holding:
        leave(number, _UNSAVED if self._noted else _SAVED)
      self._noted = number

  def hold(self) -> None:
    """From now on there is something to save: the first signal is noted."""
    with self._lock:
      self._holding = True

  def release(self) -> None:
    """All is saved: from now on a signal, or one that was noted, ends all."""
    with self._lock:
      self._holding = False
      if self._noted:
        leave(self._noted, _SAVED)

  def of_any(self) -> int:
    """The signal noted by any process at the call before, 0 for none.

    All processes call this equally often. In a job of one process there is
    no delay.
    """
    return self._largest(self._noted)

  def of_any_by_now(self) -> int:
    """The signal noted by any process, after waiting for all of them."""
    return max(agreement.from_all(self._noted))
