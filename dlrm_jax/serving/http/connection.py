"""Connections of HTTP: so many, which end where no request comes."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

GIVE_UP = 'dlrm_jax.give_up'
"""A request has here a function to call when its client has gone."""

_SECONDS = 35.0  # for a request; what reads a body gives up before
_MOST = 1 << 16  # bytes of a request beside its body
_CONNECTIONS = 1024


class Connection(HttpToolsProtocol):
  """A connection whose requests come soon, and have small heads.

  Uvicorn waits for the rest of a request for ever, and holds heads of any size.
  """

  _wait: asyncio.TimerHandle | None = None
  _beside = 0  # bytes of the request so far, less twice those of its body
  _heard = 0.0  # when something came

  def connection_made(self, transport: Any) -> None:
    """Waits for the first request."""
    super().connection_made(transport)
    self._heard = self.loop.time()
    self._wait_for_request()
    if len(self.connections) > _CONNECTIONS:
      self._make_room()

  def _make_room(self) -> None:
    """Closes a connection without a request, from which least came lately.

    That is this one, where all others have requests.
    """
    idle: list[Any] = [x for x in self.connections if x.idle]  # pyrefly: ignore
    min(idle, key=lambda x: x._heard).transport.close()

  @property
  def idle(self) -> bool:
    """Whether it stays open without a request."""
    answered = self.cycle is None or self.cycle.response_complete
    return answered and not self.transport.is_closing()

  def connection_lost(self, exc: Exception | None) -> None:
    """Waits for nothing, and lets nobody compute what nobody waits for."""
    self._wait_no_more()
    super().connection_lost(exc)
    cycle: Any = self.cycle
    if cycle is not None and (give_up := cycle.scope.get(GIVE_UP)):
      give_up()

  def data_received(self, data: bytes) -> None:
    """Takes a part of a request."""
    self._heard = self.loop.time()
    self._beside += len(data)
    super().data_received(data)
    if self._beside > _MOST and not self.transport.is_closing():
      self.send_400_response(f'The head has more than {_MOST:,} bytes.')

  def on_message_begin(self) -> None:
    """Waits for the end of a request."""
    super().on_message_begin()
    self._wait_no_more()
    self._wait_for_request()

  def on_body(self, body: bytes) -> None:
    """Takes a part of a body, which may be in chunks with their lengths."""
    self._beside -= 2 * len(body)
    super().on_body(body)

  def on_message_complete(self) -> None:
    """Has got a request."""
    self._beside = 0
    self._wait_no_more()
    super().on_message_complete()

  def _wait_for_request(self) -> None:
    self._wait = self.loop.call_later(_SECONDS, self.transport.close)

  def _wait_no_more(self) -> None:
    if self._wait is not None:
      self._wait.cancel()
      self._wait = None
