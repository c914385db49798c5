"""What a server does, whatever the protocol: answers, and says how it is."""

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dlrm_jax.errors import InputError
from dlrm_jax.serving.log import Log, Seldom
from dlrm_jax.serving.refusal import RefusedError, Why, line_of
from dlrm_jax.serving.repository import Repository
from dlrm_jax.serving.statistics import Statistics
from dlrm_jax.serving.tensors import BYTES, Tensor
from dlrm_jax.serving.version import Version
from dlrm_jax.serving.waiting import Answer, Batch, Waiting

_LATE = 'the time of the request was over before its answer'
_GONE = 'nobody waits for the answer'
_TEXT = 56  # bytes that a text takes beside its own
_MOST_OPEN = 1000  # requests; connections beyond may still ask how it is


class Scored(NamedTuple):
  """An answer, and the version that gave it."""

  version: Version
  answer: Answer


class Service:
  """Answers requests; everything happens in the thread of one event loop.

  Attributes:
    repository: the models.
    refused: refused requests that reached no model, by name of the status.
    open: number of requests that are being read, answered or sent.
    seldom: logs refusals and failures.
    draining: whether new requests are refused, as the server ends.
  """

  def __init__(self, repository: Repository, log: Log, most_held: int) -> None:
    """Answers nothing yet.

    Args:
      repository: the models.
      log: where events are written.
      most_held: bytes of the requests that wait.
    """
    self.repository = repository
    self.refused: dict[str, int] = {}
    self.draining = False
    self.open = 0
    self.seldom, self._log = Seldom(log), log
    self._pending = self._held = 0
    self._most_held = most_held
    self._idle = asyncio.Event()
    self._idle.set()

  @property
  def ready(self) -> bool:
    """Whether every model is served."""
    return not self.draining and self.repository.ready()

  def model_ready(self, model: str, number: str) -> bool:
    """Whether a version of a model is served, by a device that works.

    Raises:
      RefusedError: it is not served.
    """
    version = self.repository.find(model, number)
    return not self.draining and not version.engine.failure

  def closed(self, call: object = None) -> None:
    """Counts a request as answered."""
    self.open -= 1

  def check_room(self) -> None:
    """Refuses a request that need not be read to be refused.

    Raises:
      RefusedError: the queues of all models are full, or too many requests are
        open.
    """
    full = [version.engine.full for version in self.repository.served()]
    why = 'the queues are full' if full and all(full) else ''
    if self.open > _MOST_OPEN:
      why = f'more than {_MOST_OPEN:,} requests are open'
    if why:
      error = RefusedError(Why.FULL, f'{why}; try again')
      self.refuse(error, 0.0, None)
      raise error

  async def infer(
    self,
    model: str,
    number: str,
    tensors: Mapping[str, Tensor],
    seconds: float | None = None,
    size: int = 0,
    *,
    in_turns: bool = False,
    watch: Callable[[Callable[[], None]], object] | None = None,
  ) -> Scored:
    """Scores the rows of a request.

    Args:
      model: name of the model.
      number: number of the version; '': the default.
      tensors: the inputs.
      seconds: after which the answer is of no use; None: any time.
      size: its bytes.
      in_turns: whether the loop takes requests that have come in one turn, so
        that they can be joined at its end. gRPC takes one in each.
      watch: gets a function to call when the client has gone; None: it cancels
        the task that waits.

    Raises:
      RefusedError: there is no answer.
    """
    start = time.perf_counter()
    statistics = None
    try:
      if self.draining:
        raise RefusedError(Why.UNAVAILABLE, 'the server is ending')
      size += _TEXT * sum(
        len(tensor.data)
        for tensor in tensors.values()
        if tensor.datatype == BYTES
      )
      if self._held + size > self._most_held:
        raise RefusedError(
          Why.FULL, f'requests of {self._held:,} bytes wait already; try again'
        )
      version = self.repository.find(model, number)
      statistics = version.statistics
      question = version.interface.question(tensors)
      deadline = float('inf') if seconds is None else start + seconds
      future = asyncio.get_running_loop().create_future()
      waiting = Waiting(question, deadline, future)
      first = version.engine.submit(waiting)
    except RefusedError as error:
      self.refuse(error, time.perf_counter() - start, statistics)
      raise
    self._pending += 1
    self._held += size
    self._idle.clear()
    give_up = functools.partial(self._give_up, version, waiting)
    timer = None
    if seconds is not None:
      timer = asyncio.get_running_loop().call_later(seconds, give_up, _LATE)
    if watch is not None:
      watch(functools.partial(give_up, _GONE))
    try:
      if in_turns and first:
        asyncio.get_running_loop().call_soon(self._go_on, version)
      elif not in_turns and self.open < 2:
        self._go_on(version)
      elif not in_turns:
        version.engine.wake()
      return Scored(version, await future)
    except asyncio.CancelledError:
      give_up(_GONE)
      raise
    finally:
      if timer is not None:
        timer.cancel()
      self._pending -= 1
      self._held -= size
      if not self._pending:
        self._idle.set()

  def _go_on(self, version: Version) -> None:
    if batch := version.engine.go_on():
      self.delivered(version.statistics, batch)

  def _give_up(self, version: Version, request: Waiting, why: str) -> None:
    """Refuses a request that has no answer yet, which is not computed then."""
    future: Any = request.owner
    if future.done() and not future.cancelled():
      return
    version.engine.leave(request)
    error = RefusedError(Why.LATE, why)
    seconds = time.perf_counter() - request.arrived
    self.refuse(error, seconds, version.statistics)
    if not future.done():
      future.set_exception(error)

  def delivered(self, statistics: Statistics, batch: Batch) -> None:
    """Takes the results of a batch."""
    statistics.add_batch(batch)
    if batch.error is not None:
      what = line_of(batch.error)
      self.seldom('a batch failed', len(batch.requests), reason=what)
    if batch.defect is not None:
      self._log.defect(batch.defect)
    for request in batch.requests:
      result: Any = request.result
      future: Any = request.owner
      if future.done():  # nobody waits any more, which is counted
        continue
      if isinstance(result, Answer):
        statistics.add_answer(result)
        future.set_result(result)
      else:
        seconds = time.perf_counter() - request.arrived
        self.refuse(result, seconds, statistics)
        future.set_exception(result)

  def refuse(
    self, error: RefusedError, seconds: float, statistics: Statistics | None
  ) -> None:
    """Counts a refusal, and logs it."""
    name, error.counted = error.why.value.name, True
    if statistics is None:
      self.refused[name] = self.refused.get(name, 0) + 1
    else:
      statistics.add_refusal(error, seconds)
    self.seldom('refused', 1, status=name)

  async def load(self, model: str) -> None:
    """Serves what is in a model's folder now.

    Raises:
      RefusedError: there is no such model, or it cannot be loaded; then what
        was served is served still.
    """
    try:
      await self.repository.load(model)
    except InputError as error:
      raise RefusedError(Why.INVALID, str(error)) from None

  async def drain(self) -> None:
    """Refuses what is new, and returns once all that was taken is answered."""
    self.draining = True
    await self._idle.wait()
