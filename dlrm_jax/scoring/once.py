"""Values that are made when they are first needed, by one thread."""

import threading
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar('Value')


def once(make: Callable[[], Value]) -> Callable[[], Value]:
  """A function that returns what the first call of `make` returned.

  Threads that call it meanwhile wait. After an error the next call tries again.
  """
  lock = threading.Lock()
  made: list[Value] = []

  def value() -> Value:
    with lock:
      if not made:
        made.append(make())
    return made[0]

  return value
