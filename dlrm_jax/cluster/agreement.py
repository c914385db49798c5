"""What one process of a job knows, told to all.

All processes must take the same decisions at the same step. Scores and losses
are the same on each anyway; what only one sees (files, signals, its part of
the examples) goes through here. Each function is a collective: all processes
call it, or none. In a job of one process they do nothing.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dlrm_jax.sharding import SPLIT, sharding_of


def first() -> bool:
  """Whether this is the process that prints and writes the logs."""
  return jax.process_index() == 0


def _of_first(array: np.ndarray) -> np.ndarray:
  """An array as process 0 has it, bit for bit.

  Args:
    array: of the same shape and dtype on every process, of a multiple of four
      bytes.
  """
  if jax.process_count() == 1:
    return array
  words = np.frombuffer(array.tobytes(), np.uint32)
  told = np.asarray(multihost_utils.broadcast_one_to_all(words))
  return np.frombuffer(told.tobytes(), array.dtype).reshape(array.shape)


def from_first(number: int) -> int:
  """A number as process 0 has it; all processes come here, or none."""
  return int(_of_first(np.array(number, np.int64)))


def text_of_first(text: str) -> str:
  """A text as process 0 has it."""
  data = text.encode()
  size = from_first(len(data))
  padded = np.zeros(-(-size // 4) * 4, np.uint8)
  if first():
    padded[:size] = np.frombuffer(data, np.uint8)
  return _of_first(padded).tobytes()[:size].decode()


def from_all(number: int) -> list[int]:
  """The numbers i32 of all processes, in order."""
  if jax.process_count() == 1:
    return [number]
  told = multihost_utils.process_allgather(np.int32(number))
  return [int(x) for x in told]


@functools.cache
def _reduction(how: str) -> tuple[Mesh, jax.stages.Wrapped]:
  """A device of each process, and what reduces arrays [processes, ...]."""
  devices = {device.process_index: device for device in jax.devices()}
  line = [devices[process] for process in sorted(devices)]
  mesh = Mesh(np.array(line), ('processes',), axis_types=(AxisType.Auto,))
  reduce = getattr(jnp, how)
  return mesh, jax.jit(
    lambda arrays: [reduce(x, 0) for x in arrays],
    out_shardings=NamedSharding(mesh, PartitionSpec()),
  )


def reduced(arrays: Sequence[np.ndarray], how: str) -> list[np.ndarray]:
  """Arrays of all processes, reduced element by element on their devices.

  One collective, whose time and memory do not grow with the processes.

  Args:
    arrays: of the same shapes and dtypes, 64 bits included, on every process.
    how: 'sum', 'min' or 'max'.
  """
  if jax.process_count() == 1:
    return list(arrays)
  mesh, reduce = _reduction(how)
  split = NamedSharding(mesh, PartitionSpec('processes'))
  with jax.enable_x64(True), jax.set_mesh(mesh):
    sent = [
      jax.make_array_from_process_local_data(split, x[None]) for x in arrays
    ]
    return [np.asarray(x.addressable_data(0)) for x in reduce(sent)]


def total(number: int) -> int:
  """The sum of the numbers of all processes."""
  return int(reduced([np.array(number, np.int64)], 'sum')[0])


def total_of(numbers: np.ndarray) -> np.ndarray:
  """The sums of i64 arrays of all processes, of one shape."""
  return reduced([numbers], 'sum')[0]


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
