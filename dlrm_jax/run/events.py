"""TensorBoard's event files, written without a thread.

tensorboardX's own writer has a thread. On a full disk that thread ends, and
the next few numbers block the program for ever. It imports PyTorch where that
is installed, which takes seconds and is not needed here.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
  """Imports fail to find a package, unless it is imported already."""
  if name in sys.modules:
    yield
    return
  sys.modules[name] = None  # pyrefly: ignore[unsupported-operation]
  try:
    yield
  finally:
    del sys.modules[name]


with _hidden('torch'):
  from tensorboardX.event_file_writer import EventsWriter
  from tensorboardX.proto.event_pb2 import Event, SessionLog
  from tensorboardX.summary import scalar


class Events:
  """An event file of a run that goes on after some step."""

  def __init__(self, folder: Path, step: int) -> None:
    """Opens a file; it voids later steps in older files of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    self._writer = EventsWriter(str(folder / 'events'))
    start = SessionLog(status=SessionLog.START)
    self._write(Event(step=step + 1, session_log=start))

  def add(self, name: str, value: float, step: int) -> None:
    """Adds a number; it is in the file when `flush` has returned."""
    self._write(Event(step=step, summary=scalar(name, value)))

  def flush(self) -> None:
    """Writes all numbers that were added."""
    self._writer.flush()

  def close(self) -> None:
    """Writes all numbers that were added, and closes the file."""
    self._writer.close()

  def _write(self, event: Event) -> None:
    event.wall_time = time.time()
    self._writer.write_event(event)
