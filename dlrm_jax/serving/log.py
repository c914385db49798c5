"""The log of a server: one JSON object a line, on standard error."""

import contextlib
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, TextIO


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

  def defect(self, error: Exception) -> str:
    """Writes an error that is the server's own; returns what clients see."""
    lines = traceback.format_exception(error)
    self('defect', traceback=''.join(lines))
    return f'the server failed: {type(error).__name__}'

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
