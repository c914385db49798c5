"""Chips of TPU slices that need not be there.

libtpu, the compiler of TPUs (`pip install "jax[tpu]"`), runs without TPUs.
"""

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from dlrm_jax.errors import InputError
from dlrm_jax.plan.paper import CHIPS, EXAMPLES, shape_of

OLDEST = (0, 8, 0)
"""The first JAX that compiles for chips that are not here; earlier ones crash.
"""
# Compile only: skip the discovery of TPUs, and do not lock libtpu.
_ALONE = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-1',
}


def find_size(pattern: str, text: str) -> int | None:
  """A size in a message of the compiler, in bytes.

  >>> find_size('HBM .([0-9.]+[KMGT])', 'exceeds available HBM (15.75G)')
  16911433728
  """
  match = re.search(pattern, text)
  if match is None:
    return None
  size = match.group(1)
  return round(float(size[:-1]) * 1024 ** (1 + 'KMGT'.index(size[-1])))


def _here(topology: str, axes: list[int]) -> list[Any]:
  """The devices of this process, if they are such a slice."""
  devices, chip = jax.devices(), CHIPS[topology.partition(':')[0]]
  same = all(device.device_kind in chip.kinds for device in devices)
  return devices if same and len(devices) == math.prod(axes) else []


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
  """Context with environment variables, where they are not set."""
  added = [name for name in values if name not in os.environ]
  os.environ.update({name: values[name] for name in added})
  try:
    yield
  finally:
    for name in added:
      del os.environ[name]


def find_devices(topology: str) -> list[Any]:
  """The chips of a slice, without the slice, unless this process has it.

  Args:
    topology: libtpu's name: generation, and chips in each direction.

  Raises:
    InputError: libtpu or JAX cannot compile for chips that are not here, or
      libtpu does not know the topology.
  """
  axes = shape_of(topology)
  if here := _here(topology, axes):
    return here
  if importlib.util.find_spec('libtpu') is None:
    raise InputError(
      f'--compile={topology}: libtpu, the compiler of TPUs, is not installed; '
      f'`pip install "jax[tpu]=={jax.__version__}"` (Linux; without a TPU, too)'
    )
  if jax.__version_info__ < OLDEST:
    raise InputError(
      f'--compile={topology}: JAX {jax.__version__} cannot compile for chips '
      f'that are not here; expected {".".join(map(str, OLDEST))} or later (for '
      f'chips that are here: dlrm_jax.plan(..., compile={topology!r}))'
    )
  one_chip = math.prod(axes) == 1
  options = {'chips_per_host_bounds': (1, 1, 1)} if one_chip else {}
  try:
    with _variables(_ALONE):
      slice_ = topologies.get_topology_desc(
        platform='tpu', topology_name=topology, **options
      )
  except jax.errors.JaxRuntimeError as error:
    summary = str(error).splitlines()[0]
    if 'INVALID_ARGUMENT' not in summary:
      raise
    raise InputError(
      f'--compile={topology}: libtpu knows no such slice ({summary}); expected '
      f'a slice of whole hosts, such as {EXAMPLES}'
    ) from None
  return list(slice_.devices)


def available(device: Any) -> int | None:
  """Bytes of a chip that a program may use, from the compiler's refusal.

  None if the compiler does not say, or if a program of 129 GB fits.
  """
  place = jax.sharding.SingleDeviceSharding(device)
  large = jax.ShapeDtypeStruct((120, 2**20, 256), jnp.float32, sharding=place)
  try:
    jax.jit(jnp.negative).lower(large).compile()
  except jax.errors.JaxRuntimeError as error:
    return find_size(r'available HBM \(([\d.]+[KMGT])\)', str(error))
  return None
