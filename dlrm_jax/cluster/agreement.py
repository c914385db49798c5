"""Shares values between the processes of a job, so that all decide alike.

All processes must take the same decision at the same step. Scores and losses
are equal on all processes; values that only one process has (files, signals,
its part of the examples) are exchanged by these functions. Each function is a
collective: all processes call it, or none. In a job of one process it returns
its argument.
"""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dlrm_jax.sharding import SPLIT, sharding_of


def first() -> bool:
  """Whether this is process 0, which prints and writes the logs."""
  return jax.process_index() == 0


def _of_first(array: np.ndarray) -> np.ndarray:
  """The array of process 0, bit for bit.

  Args:
    array: array with the same shape and dtype on every process; its bytes are
      a multiple of four.
  """
  if jax.process_count() == 1:
    return array
  words = np.frombuffer(array.tobytes(), np.uint32)
  received = np.asarray(multihost_utils.broadcast_one_to_all(words))
  return np.frombuffer(received.tobytes(), array.dtype).reshape(array.shape)


def from_first(number: int) -> int:
  """The number of process 0; also a barrier for all processes."""
  return int(_of_first(np.array(number, np.int64)))


def text_of_first(text: str) -> str:
  """The text of process 0."""
  data = text.encode()
  size = from_first(len(data))
  padded = np.zeros(-(-size // 4) * 4, np.uint8)
  if first():
    padded[:size] = np.frombuffer(data, np.uint8)
  return _of_first(padded).tobytes()[:size].decode()


def from_all(number: int) -> list[int]:
  """The numbers of all processes, i32, in the order of processes."""
  if jax.process_count() == 1:
    return [number]
  numbers = multihost_utils.process_allgather(np.int32(number))
  return [int(x) for x in numbers]


_PIECE = 1 << 20  # Rows that are exchanged at a time.


def joined(rows: np.ndarray) -> np.ndarray:
  """The rows of all processes, in the order of processes.

  Args:
    rows: i32[n, W], with any n and the same W on every process.
  """
  if jax.process_count() == 1:
    return rows
  counts = from_all(len(rows))
  parts: list[list[np.ndarray]] = [[] for _ in counts]
  for start in range(0, max(counts), _PIECE):
    piece = rows[start : start + _PIECE]
    most = min(_PIECE, max(counts) - start)
    piece = np.pad(piece, ((0, most - len(piece)), (0, 0)))
    gathered = multihost_utils.process_allgather(piece)
    for part, count, received in zip(parts, counts, gathered, strict=True):
      part.append(np.asarray(received)[: max(0, count - start)])
  return np.concatenate([piece for part in parts for piece in part])


@functools.cache
def _reduction(how: str) -> tuple[Mesh, jax.stages.Wrapped]:
  """A mesh of one device of each process, and a jitted reduction over it.

  The reduction takes arrays [processes, ...] and reduces axis 0.
  """
  devices = {device.process_index: device for device in jax.devices()}
  line = [devices[process] for process in sorted(devices)]
  mesh = Mesh(np.array(line), ('processes',), axis_types=(AxisType.Auto,))
  reduce = getattr(jnp, how)
  return mesh, jax.jit(
    lambda arrays: [reduce(x, 0) for x in arrays],
    out_shardings=NamedSharding(mesh, PartitionSpec()),
  )


def _64_bits() -> contextlib.AbstractContextManager[Any]:
  """Context in which JAX keeps dtypes of 64 bits."""
  if hasattr(jax, 'enable_x64'):
    return jax.enable_x64(True)
  # In JAX before 0.8.
  from jax.experimental import enable_x64  # pyrefly: ignore

  return enable_x64()


def reduced(arrays: Sequence[np.ndarray], how: str) -> list[np.ndarray]:
  """Reduces the arrays of all processes element by element.

  It is one collective, on the devices; its time and memory do not grow with
  the number of processes.

  Args:
    arrays: arrays with the same shapes and dtypes on every process; 64-bit
      dtypes are allowed.
    how: 'sum', 'min' or 'max'.
  """
  if jax.process_count() == 1:
    return list(arrays)
  mesh, reduce = _reduction(how)
  split = NamedSharding(mesh, PartitionSpec('processes'))
  with _64_bits(), jax.set_mesh(mesh):
    sent = [
      jax.make_array_from_process_local_data(split, x[None]) for x in arrays
    ]
    return [np.asarray(x.addressable_data(0)) for x in reduce(sent)]


def total(number: int) -> int:
  """The sum of the numbers of all processes."""
  return int(reduced([np.array(number, np.int64)], 'sum')[0])


def total_of(numbers: np.ndarray) -> np.ndarray:
  """The sum of the i64 arrays of all processes, which have one shape."""
  return reduced([numbers], 'sum')[0]


class Largest:
  """The largest number of all processes, delayed by one call.

  A call does not wait: it starts a reduction on the devices and returns the
  result of the reduction that the call before started.
  """

  def __init__(self) -> None:
    self._late: jax.Array | None = None
    self._largest = jax.jit(lambda numbers: numbers.max())

  def __call__(self, number: int) -> int:
    """Gives this process's number; all processes call this equally often.

    Returns:
      The largest number given at the previous call, 0 at the first call. In a
      job of one process, `number`.
    """
    if jax.process_count() == 1:
      return number
    late = self._late
    numbers = np.full(jax.local_device_count(), number, np.int32)
    self._late = self._largest(
      jax.make_array_from_process_local_data(sharding_of(SPLIT), numbers)
    )
    return 0 if late is None else int(late)
