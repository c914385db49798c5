"""Sends requests, in a closed or an open loop, and checks every answer.

Times are those of one clock. A request of an open loop counts from the moment
at which it was due, however late the client or the server was.
"""

import asyncio
import collections
import time
from collections.abc import Awaitable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.load_test.wire import FailedError, RefusedError, Wire
from dlrm_jax.queries.arrivals import unit_arrivals

_WAIT = 1.0  # seconds after a refusal that names none
_CLOSE = 1e-3  # of answers to the same rows, which differ by rounding


class Request(NamedTuple):
  """A request that is sent again and again.

  Attributes:
    number: its place among all.
    rows: number of rows.
    encoded: as the wire sends it.
  """

  number: int
  rows: int
  encoded: Any


class Output(NamedTuple):
  """An output of a model.

  Attributes:
    name: its name.
    datatype: its type.
    row: sizes of a row; -1: any.
  """

  name: str
  datatype: str
  row: tuple[int, ...]


class Sample(NamedTuple):
  """Seconds of an answered request.

  Attributes:
    rows: its number of rows.
    send: from when it was due until the client had to wait for the server.
    wait: from there to the answer.
    receive: to decode and check it.
  """

  rows: int
  send: float
  wait: float
  receive: float

  @property
  def latency(self) -> float:
    """All of it."""
    return self.send + self.wait + self.receive


class Outcome(NamedTuple):
  """What has become of requests.

  Attributes:
    seconds: from the start to the last answer.
    samples: of the answered ones.
    refused: number of refusals.
    given_up: number of requests that ended with one.
    failed: requests without an answer, by what was said.
    wrong: answers that cannot be right, by what is wrong.
  """

  seconds: float
  samples: Sequence[Sample]
  refused: int
  given_up: int
  failed: Mapping[str, int]
  wrong: Mapping[str, int]

  @property
  def faults(self) -> int:
    """Number of requests that failed other than by refusal."""
    return sum(self.failed.values()) + sum(self.wrong.values())

  def misses(self, bound: float) -> int:
    """Number of requests without a good answer within so many seconds."""
    late = sum(sample.latency > bound for sample in self.samples)
    return late + self.given_up + self.faults


class _Sending:
  """Awaits a coroutine, and notes when it first has to wait.

  Attributes:
    sent: that time.
  """

  def __init__(self, work: Awaitable[Any]) -> None:
    self._work = work
    self.sent = 0.0

  def __await__(self) -> Generator[Any, Any, Any]:
    steps = self._work.__await__()
    try:
      first = next(steps)
    except StopIteration as end:
      return end.value
    finally:
      self.sent = time.perf_counter()
    try:
      yield first
    except BaseException as error:
      steps.throw(error)
      raise
    return (yield from steps)


class Driver:
  """Sends requests to a server."""

  def __init__(
    self,
    wire: Wire,
    requests: Sequence[Request],
    outputs: Sequence[Output],
    seed: int,
    *,
    retry: bool,
  ) -> None:
    """Sets it up.

    Args:
      wire: the connection.
      requests: what is sent, in turn.
      outputs: what answers must have.
      seed: of arrivals.
      retry: whether refused requests are sent again, after the time that the
        server names.
    """
    self._wire, self._requests, self._outputs = wire, requests, outputs
    self._names = [output.name for output in outputs]
    self._seed, self._retry = seed, retry
    self._known: dict[tuple[int, str], Mapping[str, np.ndarray | None]] = {}
    self._begin()

  def _begin(self, bound: float = np.inf) -> None:
    self._start, self._end = time.perf_counter(), 0.0
    self._bound, self._late = bound, 0
    self._count = self._refused = self._given_up = 0
    self._samples: list[Sample] = []
    self._failed: collections.Counter[str] = collections.Counter()
    self._wrong: collections.Counter[str] = collections.Counter()

  def _outcome(self) -> Outcome:
    return Outcome(
      max(self._end - self._start, 1e-9),
      self._samples,
      self._refused,
      self._given_up,
      self._failed,
      self._wrong,
    )

  def _next(self) -> Request:
    self._count += 1
    return self._requests[(self._count - 1) % len(self._requests)]

  async def closed(self, concurrency: int, seconds: float) -> Outcome:
    """Keeps as many requests under way, for so long.

    A client sends its next request when the one before is answered.
    """
    self._begin()

    async def client() -> None:
      while time.perf_counter() < self._start + seconds:
        await self._send(self._next(), time.perf_counter())

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return self._outcome()

  async def open(
    self,
    rate: float,
    count: int,
    bound: float = np.inf,
    misses: int | None = None,
    draw: int = 0,
  ) -> Outcome:
    """Sends requests when they are due: Poisson arrivals, for a number of them.

    Args:
      rate: requests a second.
      count: number of requests.
      bound: seconds; a request that takes longer, or has no answer, is a miss.
      misses: no more requests are sent after more of them; None: all are.
      draw: number of the draw of arrivals.
    """
    self._begin(bound)
    arrivals = unit_arrivals((self._seed, draw))
    async with asyncio.TaskGroup() as sending:
      for at, _ in zip(arrivals, range(count), strict=False):
        due = self._start + at / rate
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        if misses is not None and self._missed > misses:
          break
        sending.create_task(self._send(self._next(), due))
    return self._outcome()

  @property
  def _missed(self) -> int:
    faults = self._failed.total() + self._wrong.total()
    return self._late + self._given_up + faults

  async def _send(self, request: Request, due: float) -> None:
    """Sends a request, and notes what comes of it."""
    while True:
      sending = _Sending(self._wire.ask(request.encoded))
      try:
        answer = await sending
      except RefusedError as error:
        self._refused += 1
        if not self._retry:
          self._given_up += 1
          break
        await asyncio.sleep(_WAIT if error.wait is None else error.wait)
      except FailedError as error:
        self._failed[str(error)] += 1
        break
      else:
        self._take(request, answer, due, sending.sent)
        break
    self._end = time.perf_counter()

  def _take(
    self, request: Request, answer: Any, due: float, sent: float
  ) -> None:
    """Decodes and checks an answer."""
    came = time.perf_counter()
    decoded = self._wire.decode(answer, self._names)
    fault = self._fault(request, decoded.version, decoded.outputs)
    done = time.perf_counter()
    if fault:
      self._wrong[fault] += 1
      return
    sample = Sample(request.rows, sent - due, came - sent, done - came)
    self._samples.append(sample)
    self._late += sample.latency > self._bound

  def _fault(
    self,
    request: Request,
    version: str,
    outputs: Mapping[str, np.ndarray | None],
  ) -> str:
    """What is wrong with an answer; '' where nothing is."""
    before = self._known.get((request.number, version), outputs)
    for name, datatype, row in self._outputs:
      array, known = outputs[name], before[name]
      expected = request.rows, *row
      if array is None or known is None:
        return f'there is no output {name}'
      fits = len(array.shape) == len(expected) and all(
        size in (-1, found)
        for size, found in zip(expected, array.shape, strict=True)
      )
      if not fits:
        return (
          f'output {name} has the shape {list(array.shape)}; expected '
          f'{list(expected)}'
        )
      if not datatype.startswith('FP'):
        continue
      if not np.isfinite(array).all():
        return f'output {name} has a number that is not finite'
      if array.shape != known.shape or not np.allclose(
        array, known, rtol=_CLOSE, atol=_CLOSE
      ):
        return f'output {name} is another than before for the same rows'
    self._known[request.number, version] = before
    return ''


def outputs_of(metadata: Mapping[str, Any]) -> list[Output]:
  """The outputs that a model has, by its metadata."""
  return [
    Output(x['name'], x['datatype'], tuple(map(int, x['shape'][1:])))
    for x in metadata['outputs']
  ]
