"""A load over HTTP that costs its sender little: bytes made before are sent."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

_END = b'\r\n\r\n'
_LENGTH = b'content-length:'


class Load(NamedTuple):
  """What a load saw.

  Attributes:
    count: number of answers, with the first of each caller.
    rate: answers a second.
    p50: median of their seconds.
    p99: 99th percentile.
  """

  count: int
  rate: float
  p50: float
  p99: float


def post(path: str, body: bytes, headers: str = '') -> bytes:
  """A request; each header ends with a line's end."""
  head = f'POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}'
  return f'{head}Content-Length: {len(body)}\r\n\r\n'.encode() + body


class _Connection(asyncio.Protocol):
  """A connection with one request at a time."""

  def __init__(self) -> None:
    self._held = bytearray()
    self._end = 0

  def connection_made(self, transport: asyncio.BaseTransport) -> None:
    self.transport = transport

  def data_received(self, data: bytes) -> None:
    self._held += data
    if not self._end:
      at = self._held.find(_END)
      if at < 0:
        return
      head = bytes(self._held[:at]).lower()
      _, _, length = head.partition(_LENGTH)
      self._end = at + len(_END) + int(length.split(b'\r')[0])
    if len(self._held) >= self._end:
      held, self._held, self._end = bytes(self._held), bytearray(), 0
      self._answer.set_result(held)

  def connection_lost(self, exc: Exception | None) -> None:
    if not self._answer.done():
      self._answer.set_exception(ConnectionError('the server hung up'))

  def ask(self, request: bytes) -> asyncio.Future[bytes]:
    """The answer, head and body."""
    self._answer = asyncio.get_running_loop().create_future()
    self.transport.write(request)  # pyrefly: ignore
    return self._answer


async def load(
  address: str,
  requests: Sequence[bytes],
  check: Callable[[int, bytes], None],
  callers: int,
  seconds: float,
) -> Load:
  """Callers that send one request after the other.

  Args:
    address: HOST:PORT.
    requests: taken in turn.
    check: takes the place of a request and its answer; raises if it is wrong.
    callers: how many, each with a connection.
    seconds: how long, once a request of each is answered.
  """
  host, _, port = address.rpartition(':')
  loop, spent = asyncio.get_running_loop(), []
  made = [
    (await loop.create_connection(_Connection, host, int(port)))[1]
    for _ in range(callers)
  ]

  async def caller(number: int, connection: _Connection, end: float) -> None:
    while True:
      number = (number + 1) % len(requests)
      start = time.perf_counter()
      answer = await connection.ask(requests[number])
      now = time.perf_counter()
      check(number, answer)
      spent.append(now - start)
      if now > end:
        return

  async def all_until(end: float) -> None:
    await asyncio.gather(
      *(caller(n, connection, end) for n, connection in enumerate(made))
    )

  await all_until(0.0)
  spent.clear()
  start = time.perf_counter()
  await all_until(start + seconds)
  count = len(spent) + callers
  rate = len(spent) / (time.perf_counter() - start)
  for connection in made:
    connection.transport.close()
  p50, p99 = np.percentile(spent, [50, 99])
  return Load(count, rate, float(p50), float(p99))
