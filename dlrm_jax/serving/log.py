"""The log of a server: one JSON object a line, on standard error."""

import asyncio
import contextlib
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, TextIO

from dlrm_jax.serving.refusal import RefusedError, failed_by

_QUIET = 1.0  # seconds between lines of a kind


class Log:
  """Writes events."""

  def __init__(self, stream: TextIO | None = None) -> None:
    """Writes to a stream; None: standard error."""
    self._stream = stream

  def __call__(self, event: str, **fields: Any) -> None:
    """Writes one event; fields say what, never the content of requests."""
    line = json.dumps({'time': round(time.time(), 3), 'event': event} | fields)
    stream = self._stream or sys.stderr
    # Requests are answered, though nobody reads the log, or its disk is full.
    with contextlib.suppress(OSError):
      stream.write(f'{line}\n')
      stream.flush()

  def defect(self, error: Exception) -> RefusedError:
    """Writes where an error came up that is the server's own.

    What it says is not written, as it may have values of a request.

    Returns:
      What clients see.
    """
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
      at = traceback.format_tb(cause.__traceback__)
      lines = [*at, f'{type(cause).__name__}\n', *lines]
      cause = cause.__cause__ or cause.__context__
    self('defect', traceback=''.join(lines))
    return failed_by(error)

  @contextlib.contextmanager
  def of_libraries(self) -> Iterator[None]:
    """A context in which what libraries log are events, and nothing else."""
    root = logging.getLogger()
    own: list[logging.Handler] = [_OfLibraries(self)]
    others, root.handlers = root.handlers, own
    try:
      yield
    finally:
      root.handlers = others


class Seldom:
  """Writes events of which there may be many, in the thread of a loop.

  The first one of a kind is a line at once. Those of the second after a line
  are one line together at its end.
  """

  def __init__(self, log: Log) -> None:
    self._log = log
    self._unlogged: dict[tuple[str, str], tuple[int, dict[str, str]]] = {}

  def __call__(
    self, event: str, requests: int, status: str = '', **fields: str
  ) -> None:
    """Writes an event of requests, now or later.

    Args:
      event: what has happened.
      requests: to so many requests.
      status: what tells the kind apart from others of the event.
      **fields: more about it; a line has those of its last event.
    """
    if status:
      fields['status'] = status
    kind = event, status
    if kind in self._unlogged:
      self._unlogged[kind] = self._unlogged[kind][0] + requests, fields
    else:
      self._write(kind, requests, fields)

  def _write(
    self, kind: tuple[str, str], requests: int, fields: dict[str, str]
  ) -> None:
    self._log(kind[0], requests=requests, **fields)
    self._unlogged[kind] = 0, {}
    asyncio.get_running_loop().call_later(_QUIET, self._again, kind)

  def _again(self, kind: tuple[str, str]) -> None:
    requests, fields = self._unlogged.pop(kind)
    if requests:
      self._write(kind, requests, fields)

  def flush(self) -> None:
    """Writes what is not written yet."""
    for (event, status), (requests, fields) in self._unlogged.items():
      self._unlogged[event, status] = 0, {}
      if requests:
        self._log(event, requests=requests, **fields)


class _OfLibraries(logging.Handler):
  """Writes what libraries log."""

  def __init__(self, log: Log) -> None:
    super().__init__(logging.WARNING)
    self._log = log

  def emit(self, record: logging.LogRecord) -> None:
    """Writes a record."""
    found = {'library': record.name, 'message': record.getMessage()}
    if record.exc_info:
      lines = traceback.format_exception(*record.exc_info)
      found['traceback'] = ''.join(lines)
    self._log('warning', **found)
