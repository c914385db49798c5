"""Items of an iterator, made ahead in a thread."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar('Item')

_PATIENCE = 5.0  # seconds; a thread may wait for a pipe that gives nothing


def ahead(items: Iterable[Item], most: int = 2) -> Iterator[Item]:
  """The same items in order, of which some are made ahead.

  An error of the thread is raised in place of the next item. The thread ends
  when this iterator is closed.

  Args:
    items: iterated in a thread.
    most: largest number of items that wait.
  """
  made: queue.Queue[tuple[str, Any]] = queue.Queue(most)
  closed = threading.Event()

  def put(kind: str, value: Any) -> bool:
    while not closed.is_set():
      try:
        made.put((kind, value), timeout=0.1)
      except queue.Full:
        continue
      return True
    return False

  def make() -> None:
    try:
      for item in items:
        if not put('item', item):
          return
      put('end', None)
    except BaseException as error:
      put('error', error)

  thread = threading.Thread(target=make, daemon=True)
  thread.start()
  try:
    while True:
      kind, value = made.get()
      if kind == 'end':
        return
      if kind == 'error':
        raise value
      yield value
  finally:
    closed.set()
    thread.join(_PATIENCE)
