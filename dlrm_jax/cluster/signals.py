"""Signals that end a run after it has saved.

The signals are SIGTERM, Ctrl-C, SIGHUP (the terminal was closed) and SIGUSR1
(the warning that Slurm sends with --signal=USR1@SECONDS). During training the
first signal is noted; the run saves and ends. A second one ends it at once.
Before the first step and after the last one nothing has to be saved, and the
first signal ends the run at once, even while XLA compiles.

A scheduler may signal one process, or all processes at different moments; all
must stop after the same step, since all write the checkpoint.
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
  """Context in which signals end the run as this module describes.

  Python runs a signal handler only between two of its own instructions, which
  may be minutes apart while XLA compiles. So a thread reads the signals from a
  pipe instead.
  """

  def __enter__(self) -> Self:
    self._noted, self._holding = 0, False
    self._lock = threading.Lock()
    self._largest = agreement.Largest()
    reading_end, self._writing_end = os.pipe()
    os.set_blocking(self._writing_end, False)
    self._old_pipe = signal.set_wakeup_fd(
      self._writing_end, warn_on_full_buffer=False
    )
    self._old = {
      number: signal.signal(number, lambda *_: None)
      for number in heard(*_NUMBERS)
    }
    threading.Thread(
      target=self._listen, args=(reading_end,), daemon=True
    ).start()
    return self

  def __exit__(self, *error: object) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(self._old_pipe)
    os.close(self._writing_end)

  def _listen(self, pipe: int) -> None:
    with open(pipe, 'rb', buffering=0) as numbers:
      while number := numbers.read(1):
        if number[0] in _NUMBERS:
          self._receive(number[0])

  def _receive(self, number: int) -> None:
    with self._lock:
      if self._noted or not self._holding:
        leave(number, _UNSAVED if self._noted else _SAVED)
      self._noted = number

  def hold(self) -> None:
    """Notes the first signal from now on, so that the run can save."""
    with self._lock:
      self._holding = True

  def release(self) -> None:
    """Lets signals end the process at once again, also the noted one."""
    with self._lock:
      self._holding = False
      if self._noted:
        leave(self._noted, _SAVED)

  def poll(self) -> int:
    """The signal that any process had noted at the previous call; 0: none.

    All processes call this equally often; it does not wait for them. In a job
    of one process it is the signal noted now.
    """
    return self._largest(self._noted)

  def wait(self) -> int:
    """The signal that any process has noted; waits for all of them."""
    return max(agreement.from_all(self._noted))
