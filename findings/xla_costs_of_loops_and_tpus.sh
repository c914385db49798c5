#!/usr/bin/env bash
# JAX: cost_analysis() counts the body of a loop once, and bytes that never
# reach a TPU's memory.
#
# Versions: jax 0.10.2, jaxlib 0.10.2, libtpu 0.0.42.1, Python 3.11.
# Seen: ten matrix products in a fori_loop have a tenth of the `flops` of the same
#   ten products in a row, though the compiler knows the number of trips (its text
#   has known_trip_count on CPUs). For a TPU, `bytes accessed` of a program whose
#   intermediate arrays all stay in the on-chip memory (layout S(1)) is ten times
#   what it can read from its memory and write to it: one argument, one result.
# Expected: operations of the program as it runs. Divided by a chip's rates, these
#   numbers give a bound that is ten times too low, or too high.
# What to do: multiply by the trips, and count the bytes of operands and results
#   whose layout has no S(1).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet \
  'jax[tpu]==0.10.2' jaxlib==0.10.2 libtpu==0.0.42.1

cd "$work"
JAX_PLATFORMS=cpu ALLOW_MULTIPLE_LIBTPU_LOAD=1 TPU_SKIP_MDS_QUERY=1 \
  TPU_WORKER_HOSTNAMES=localhost TPU_ACCELERATOR_TYPE=v5litepod-1 \
  "$work/venv/bin/python" - <<'PY' 2>/dev/null | tee "$work/seen"
import re

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding


def in_a_row(x):
  y = x
  for _ in range(10):
    y = jnp.tanh(y @ x)
  return y


def in_a_loop(x):
  return jax.lax.fori_loop(0, 10, lambda _, y: jnp.tanh(y @ x), x)


slice_ = topologies.get_topology_desc(
  platform='tpu', topology_name='v5e:1x1', chips_per_host_bounds=(1, 1, 1)
)
for device in (jax.devices()[0], slice_.devices[0]):
  place = SingleDeviceSharding(device)
  x = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=place)
  for function in (in_a_row, in_a_loop):
    compiled = jax.jit(function).lower(x).compile()
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    products = costs['flops'] / (2 * 512**3)
    moved = costs['bytes accessed'] / 2**20
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    print(
      f'{device.platform}, {function.__name__}: {products:.1f} products, '
      f'{moved:.0f} MiB accessed; argument, result {held / 2**20:.0f} MiB, '
      f'temporaries {memory.temp_size_in_bytes / 2**20:.0f} MiB'
    )
PY

diff "$work/seen" - <<'SEEN'
cpu, in_a_row: 10.0 products, 49 MiB accessed; argument, result 2 MiB, temporaries 1 MiB
cpu, in_a_loop: 1.0 products, 7 MiB accessed; argument, result 2 MiB, temporaries 1 MiB
tpu, in_a_row: 10.0 products, 20 MiB accessed; argument, result 2 MiB, temporaries 0 MiB
tpu, in_a_loop: 1.0 products, 12 MiB accessed; argument, result 2 MiB, temporaries 0 MiB
SEEN
