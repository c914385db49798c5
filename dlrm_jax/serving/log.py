"""The log of a server: one JSON object a line, on standard error."""

import json
import sys
import time
import traceback
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
    stream.write(f'{line}\n')
    stream.flush()

  def defect(self, error: Exception) -> str:
    """Writes an error that is the server's own; returns what clients see."""
    lines = traceback.format_exception(error)
    self('defect', traceback=''.join(lines))
    return f'the server failed: {type(error).__name__}'
