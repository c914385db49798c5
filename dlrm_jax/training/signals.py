"""SIGTERM and Ctrl-C: noted, and told to all processes of a job.

A scheduler may signal one process, or all of them at different moments; yet
all must stop after the same step to save it.
"""

import signal
from types import FrameType
from typing import Self

from dlrm_jax import agreement

_NUMBERS = signal.SIGTERM, signal.SIGINT


class Signals:
  """Within it, a signal is noted and does nothing else.

  Only the first one: a second acts as if nobody listened.
  """

  def __enter__(self) -> Self:
    self._noted = 0
    self._largest = agreement.Largest()
    self._old = {
      number: signal.signal(number, self._note) for number in _NUMBERS
    }
    return self

  def __exit__(self, *error: object) -> None:
    self._restore()

  def _note(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._noted = number
    self._restore()

  def _restore(self) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def of_any(self) -> int:
    """The signal noted by any process at the call before, 0 for none.

    All processes call this after each step. In a job of one process there is
    no delay.
    """
    return self._largest(self._noted)

  def of_any_by_now(self) -> int:
    """The signal noted by any process, after waiting for all of them."""
    return max(agreement.from_all(self._noted))
