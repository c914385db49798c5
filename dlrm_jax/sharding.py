"""The mesh: one axis of devices, which cuts batches and tables into parts.

Parameters of layers are copied to every device. A job computes everything
within `use(mesh)`. On one device there is no mesh, and the same code runs
without collectives.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dlrm_jax.errors import InputError

AXIS = 'devices'
Arrays = TypeVar('Arrays')
T = TypeVar('T')
SPLIT = PartitionSpec(AXIS)
"""Spec of an array cut on axis 0 into a part for each device."""
COPIED = PartitionSpec()
"""Spec of an array that every device has as a whole."""
_IN_USE: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar('mesh')
"""The mesh in use; JAX before 0.8 has no public function that returns it."""


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
  """A mesh of one axis, with the devices of a process side by side.

  Args:
    devices: devices in any order; None: all.
  """
  chosen = list(jax.devices() if devices is None else devices)
  chosen.sort(key=lambda d: (d.process_index, d.id))
  return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def choose_devices(shards: int) -> list[Any]:
  """The devices of this job: the largest number that divides the shards.

  Args:
    shards: number of logical shards of the tables.

  Raises:
    InputError: the job has several processes, so that it must use all
      devices, and their number does not divide the shards.
  """
  devices = jax.devices()
  count = max(n for n in range(1, len(devices) + 1) if shards % n == 0)
  if count < len(devices) and jax.process_count() > 1:
    raise InputError(
      f'{len(devices)} devices do not divide the {shards} shards of the tables '
      f'(config.tables.shards); set it to a multiple of {len(devices)}: '
      f'checkpoints fit all the same'
    )
  return devices[:count]


def choose_mesh(shards: int, batch_sizes: Mapping[str, int]) -> Mesh:
  """The mesh of this job's devices.

  Args:
    shards: number of logical shards of the tables.
    batch_sizes: sizes of global batches, by the option that sets them.

  Raises:
    InputError: the shards or a batch cannot be cut into equal parts.
  """
  devices = choose_devices(shards)
  for option, size in batch_sizes.items():
    if size % len(devices):
      raise InputError(
        f'{option} is {size}; expected a multiple of the {len(devices)} devices'
      )
  return make_mesh(devices)


@contextlib.contextmanager
def use(mesh: Mesh) -> Iterator[None]:
  """Context in which everything runs on the devices of a mesh."""
  if mesh.size == 1 and mesh.devices[0] == jax.devices()[0]:
    yield
    return
  with jax.set_mesh(mesh):
    before = _IN_USE.set(mesh)
    try:
      yield
    finally:
      _IN_USE.reset(before)


def for_thread(function: Callable[[], T]) -> Callable[[], T]:
  """A function that another thread can call: it has the mesh in use here.

  JAX has one for each thread.
  """
  mesh, context = _IN_USE.get(None), contextvars.copy_context()

  def with_mesh() -> T:
    with contextlib.nullcontext() if mesh is None else use(mesh):
      return function()

  return functools.partial(context.run, with_mesh)


def device_count() -> int:
  """Number of devices of the mesh in use; 1 outside of any mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else mesh.shape[AXIS]


def on_cpu() -> bool:
  """Whether the devices in use are CPUs; also works in traced functions."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return jax.default_backend() == 'cpu'
  device = mesh.abstract_device
  return device is not None and device.device_kind == 'cpu'


def on_each_device(
  function: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """Makes each device apply a function to its parts of the arguments."""
  if device_count() == 1 and jax.sharding.get_abstract_mesh().empty:
    return function
  return jax.shard_map(
    function, in_specs=in_specs, out_specs=out_specs, check_vma=False
  )


def over_devices(collective: Callable[..., Any], tree: Any) -> Any:
  """A `lax.psum` or `lax.pmax` over devices; the identity on one device."""
  return tree if device_count() == 1 else collective(tree, AXIS)


def sharding_of(spec: PartitionSpec) -> jax.sharding.Sharding:
  """The sharding of an array of this spec on the mesh in use."""
  mesh = _IN_USE.get(None)
  if mesh is None:
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return NamedSharding(mesh, spec)


def send(batch: Arrays) -> Arrays:
  """Turns this process's part of a global batch into arrays on all devices.

  Args:
    batch: a `Batch` or `Inputs` of NumPy arrays with examples on axis 0.
  """
  where = sharding_of(SPLIT)
  if isinstance(where, NamedSharding):
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(where, x), batch
    )
  return jax.device_put(batch, where)


def local_part(x: jax.Array | np.ndarray) -> np.ndarray:
  """This process's part of an array that is cut on axis 0."""
  if isinstance(x, np.ndarray):
    return x
  parts = {
    shard.index[0].start or 0: shard.data for shard in x.addressable_shards
  }
  return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])
