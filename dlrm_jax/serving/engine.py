"""The engine of a model version: requests wait, are joined, and are scored.

A thread takes what waits, up to `max_batch` rows, while the batch before it
runs; with `max_delay`, it waits so long for more. Requests come from the thread
of an event loop, and their answers go back there.
"""

import collections
import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlrm_jax.batch import Inputs
from dlrm_jax.serving.coding import Coding
from dlrm_jax.serving.interface import ColumnRows, NetworkRows
from dlrm_jax.serving.joining import cut, joined
from dlrm_jax.serving.program import Program
from dlrm_jax.serving.refusal import RefusedError, Why, failed_by, line_of
from dlrm_jax.serving.waiting import Answer, Batch, Limits, Times, Waiting

_SHORT = 1e-3  # seconds that the event loop may wait
_VALUE = 5e-7  # that it takes to find what one more value became, about
_AGAIN = 1.0  # seconds after which a device that failed is tried again

_LATE = 'the time of the request was over before its turn'


class _DeviceError(Exception):
  """The device failed.

  Attributes:
    said: what it said.
  """

  def __init__(self, said: Exception) -> None:
    super().__init__(said)
    self.said = said


class Engine:
  """Scores the requests of one version of a model.

  Attributes:
    limits: how much waits, and how much is joined.
    failure: what the device said when it failed; '': it works.
  """

  def __init__(
    self,
    program: Program,
    coding: Coding,
    limits: Limits,
    deliver: Callable[[Batch], object],
  ) -> None:
    """Starts the thread.

    Args:
      program: the compiled function.
      coding: encodes raw values.
      limits: see `Limits`.
      deliver: gets batches with their results, in the thread of the engine.
    """
    self._program, self._coding = program, coding
    self.limits, self._deliver = limits, deliver
    self._queue: collections.deque[Waiting] = collections.deque()
    self._rows = 0
    self._busy = self._told = self._full = False
    self.failure = ''
    self._changed = threading.Condition()
    self._closed = False
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  @property
  def queue_rows(self) -> int:
    """Number of rows that wait."""
    return self._rows

  @property
  def full(self) -> bool:
    """Whether a request had no room, and none has left the queue since."""
    return self._full

  def submit(self, request: Waiting) -> bool:
    """Puts a request into the queue; `go_on` or `wake` must follow.

    Returns:
      Whether it is the first one since they were called.

    Raises:
      RefusedError: it has too many rows, there is no room, or the device fails.
    """
    rows, limits = request.question.count, self.limits
    if rows > limits.max_batch:
      raise RefusedError(
        Why.INVALID,
        f'a request of {rows:,} rows; expected at most {limits.max_batch:,} '
        '(--max_batch)',
      )
    with self._changed:
      if self._closed:
        raise RefusedError(Why.UNAVAILABLE, 'the model is being unloaded')
      if self.failure:
        raise RefusedError(Why.UNAVAILABLE, self.failure)
      if self._rows + rows > limits.max_queue_rows:
        self._full = True
        raise RefusedError(
          Why.FULL,
          f'{self._rows:,} rows wait already, and at most '
          f'{limits.max_queue_rows:,} may (--max_queue_rows); try again',
        )
      self._queue.append(request)
      self._rows += rows
      first, self._told = not self._told, True
      return first

  def leave(self, request: Waiting) -> None:
    """Takes a request out of the queue for which nobody waits any more."""
    request.gone = True
    with self._changed, contextlib.suppress(ValueError):  # it is not there
      self._queue.remove(request)
      self._rows -= request.question.count
      self._full = False

  def wake(self) -> None:
    """Lets the thread of the engine score what waits."""
    with self._changed:
      self._told = False
      self._changed.notify()

  def go_on(self) -> Batch | None:
    """Scores what waits: here if that is short, which saves two ways.

    Returns:
      What was scored; None where the thread of the engine does it.
    """
    with self._changed:
      self._told = False
      if not self._queue:
        return None
      if self._busy or self.limits.max_delay or not self._short():
        self._changed.notify()
        return None
      batch = self._score_all(self._taken())
      if self.failure:
        self._changed.notify()  # the thread tries the device again
      return batch

  def _short(self) -> bool:
    """Whether the event loop may wait for all that waits."""
    if self._rows > self.limits.max_batch:
      return False
    seconds = self._program.seconds_for(self._rows)
    for request in self._queue:
      rows = request.question.rows
      if not isinstance(rows, NetworkRows):
        seconds += _VALUE * sum(math.prod(x.shape) for x in rows.values())
        if seconds > _SHORT or not self._remembers(rows):
          return False
    return seconds <= _SHORT

  def _remembers(self, rows: ColumnRows) -> bool:
    try:
      return self._coding.remembers(rows)
    except Exception:  # which the thread meets again, and tells
      return False

  def close(self) -> None:
    """Takes no more requests; those in the queue are still answered."""
    with self._changed:
      self._closed = True
      self._changed.notify()

  def join(self) -> None:
    """Waits for the last answer after `close`."""
    self._thread.join()

  def _run(self) -> None:
    while (taken := self._take()) is not None:
      if taken:
        self._deliver(self._score_all(taken))
      else:
        self._try()
      self._busy = False

  def _take(self) -> list[Waiting] | None:
    """The next requests; none: the device is to be tried; None: the end."""
    with self._changed:
      taken: list[Waiting] = []
      while not taken:
        while not self._queue:
          if self._closed:
            return None
          if not self._changed.wait(_AGAIN if self.failure else None):
            self._busy = True
            return []
        if self.limits.max_delay:
          end = self._queue[0].arrived + self.limits.max_delay
          while self._rows < self.limits.max_batch and not self._closed:
            left = end - time.perf_counter()
            if left <= 0 or not self._changed.wait(left):
              break
        taken = self._taken()  # none where all have left
      self._busy = True
      return taken

  def _taken(self) -> list[Waiting]:
    """Takes requests out of the queue, as many as may be joined."""
    taken, rows = [], 0
    while self._queue:
      more = self._queue[0].question.count
      if rows + more > self.limits.max_batch:
        break
      taken.append(self._queue.popleft())
      rows += more
    self._rows -= rows
    self._full = False
    return taken

  def _score_all(self, taken: list[Waiting]) -> Batch:
    """Scores requests; gives each its result."""
    now = time.perf_counter()
    live = []
    for request in taken:
      if request.deadline <= now:
        request.result = RefusedError(Why.LATE, _LATE)
      elif request.gone:
        request.result = RefusedError(Why.LATE, 'nobody waits for the answer')
      elif self.failure:
        request.result = RefusedError(Why.UNAVAILABLE, self.failure)
      else:
        live.append(request)
    if not live:
      return Batch(taken)
    try:
      return Batch(taken, *self._score(live, now))
    except _DeviceError as error:
      self._try()
      self._score_again(live, error if self.failure else None)
      return Batch(taken, error=error.said)
    except Exception as error:
      self._score_again(live)
      return Batch(taken, defect=error)

  def _try(self) -> None:
    """Scores rows without ids, to see whether the device works."""
    try:
      self._program.check()
      self.failure = ''
    except Exception as error:
      self.failure = f'the device fails: {line_of(error)}'

  def _score_again(
    self, live: list[Waiting], failure: Exception | None = None
  ) -> None:
    """Scores requests alone whose batch failed, perhaps by one's rows.

    Args:
      live: the requests.
      failure: why none can be scored; None: some may.
    """
    for request in live:
      try:
        if failure is not None:
          raise failure
        self._score([request], time.perf_counter())
      except _DeviceError as error:
        request.result = RefusedError(
          Why.FAILED, f'the device failed: {line_of(error.said)}'
        )
      except Exception as error:
        request.result = failed_by(error)

  def _score(
    self, live: list[Waiting], taken: float
  ) -> tuple[int, Times, dict[str, int]]:
    """Scores requests as one batch.

    Returns:
      Number of rows, times, and unknown ids by feature.
    """
    # Those with columns of the log come first, as they are encoded together.
    parts, order, unknown = [], [], {}
    raw = [x for x in live if not isinstance(x.question.rows, NetworkRows)]
    if raw:
      columns: list[Any] = [x.question.rows for x in raw]
      counts = [x.question.count for x in raw]
      coded, faults, unknown = self._coding(columns, counts)
      for number, fault in faults.items():
        raw[number].result = RefusedError(Why.INVALID, fault)
      if len(faults) < len(raw):
        parts.append((len(coded.ids), coded))
        order += raw
    for request in live:
      count, rows = request.question
      if isinstance(rows, NetworkRows):
        parts.append((count, rows))
        order.append(request)
    total = sum(count for count, _ in parts)
    coded_at = time.perf_counter()
    if not total:
      return 0, Times(taken, taken, coded_at, coded_at), unknown
    scores = self._scores(parts, self._program.cuts(total))
    times = Times(taken, taken, coded_at, time.perf_counter())
    start = 0
    for request in order:
      stop = start + request.question.count
      if request.result is None:
        own = times._replace(arrived=request.arrived)
        request.result = _answer(scores[start:stop], own)
      start = stop
    return total, times, unknown

  def _scores(
    self, parts: Sequence[tuple[int, Inputs | NetworkRows]], cuts: Sequence[int]
  ) -> np.ndarray:
    """Scores of rows and their padding, f32[rows, T, 2].

    Args:
      parts: the rows, and how many.
      cuts: sizes of the calls.
    """
    inputs = joined(parts, sum(cuts))
    if len(cuts) == 1:
      return self._call(inputs)
    ends = list(itertools.accumulate(cuts))
    return np.concatenate(
      [
        self._call(cut(inputs, end - size, end))
        for size, end in zip(cuts, ends, strict=True)
      ]
    )

  def _call(self, inputs: Inputs) -> np.ndarray:
    try:
      return self._program(inputs)
    except Exception as error:
      raise _DeviceError(error) from error


def _answer(scores: np.ndarray, times: Times) -> Answer | RefusedError:
  """The answer of these scores, f32[B, T, 2], if all of them are finite."""
  finite = np.isfinite(scores)
  if finite.all():
    return Answer(scores, times)
  row = np.argwhere(~finite)[0, 0]
  return RefusedError(
    Why.INVALID,
    f'row {row}: its score is not finite; expected smaller numbers, or another '
    'model',
  )
