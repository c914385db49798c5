"""What one process of a job knows, told to all.

All processes must take the same decisions at the same step. Scores and losses
are the same on each anyway; what only one sees (files, signals, its part of
the examples) goes through here. Each function is a collective: all processes
call it, or none. In a job of one process they do nothing.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from dlrm_jax.sharding import SPLIT, sharding_of


def first() -> bool:
  """Whether this is the process that prints and writes the logs."""
  return jax.process_index() == 0


def as_told_by(process: int, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Arrays as one process has them, bit for bit.

  Args:
    process: whose.
    arrays: numpy's, of the same shapes and dtypes on every process, of a
      multiple of four bytes.
  """
  if jax.process_count() == 1:
    return list(arrays)
  words = [np.frombuffer(x.tobytes(), np.uint32) for x in arrays]
  told = multihost_utils.broadcast_one_to_all(
    words, is_source=jax.process_index() == process
  )
  return [
    np.frombuffer(np.asarray(word).tobytes(), x.dtype).reshape(x.shape)
    for word, x in zip(told, arrays, strict=True)
  ]


def from_first(number: int) -> int:
  """A number as process 0 has it; all processes come here, or none."""
  return int(as_told_by(0, [np.array(number, np.int64)])[0])


def text_of_first(text: str) -> str:
  """A text as process 0 has it."""
  data = text.encode()
  size = from_first(len(data))
  padded = np.zeros(-(-size // 4) * 4, np.uint8)
  if first():
    padded[:size] = np.frombuffer(data, np.uint8)
  return as_told_by(0, [padded])[0].tobytes()[:size].decode()


def from_all(number: int) -> list[int]:
  """The numbers i32 of all processes, in order."""
  if jax.process_count() == 1:
    return [number]
  told = multihost_utils.process_allgather(np.int32(number))
  return [int(x) for x in told]


def total(number: int) -> int:
  """The sum of the numbers of all processes."""
  mine = np.array(number, np.int64)
  return sum(
    int(as_told_by(process, [mine])[0])
    for process in range(jax.process_count())
  )


def total_of(numbers: np.ndarray) -> np.ndarray:
  """The sums of i64 arrays of all processes, of one shape."""
  parts = range(jax.process_count())
  return np.sum([as_told_by(part, [numbers])[0] for part in parts], axis=0)


class Largest:
  """The largest number that any process named, one call later.

  A step needs no more of it than an addition on the devices: the answer is
  looked at when the next question has been asked.
  """

  def __init__(self) -> None:
    self._late: jax.Array | None = None
    self._largest = jax.jit(lambda numbers: numbers.max())

  def __call__(self, number: int) -> int:
    """Names a number; all processes call this equally often.

    Returns:
      The largest of those named by the call before; 0 at first. In a job of
      one process, `number`.
    """
    if jax.process_count() == 1:
      return number
    late = self._late
    numbers = np.full(jax.local_device_count(), number, np.int32)
    self._late = self._largest(
      jax.make_array_from_process_local_data(sharding_of(SPLIT), numbers)
    )
    return 0 if late is None else int(late)
