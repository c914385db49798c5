"""Our kernel of lookups, for rows of any kind.

A contender: run by `benchmarks.lookup`.
"""

import argparse
import itertools
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import pooled
from benchmarks.serving import serve
from dlrm_jax import native
from dlrm_jax.heap import keep_freed_memory

_BITS = {'float32': 32, 'int8': 8, 'int4': 4, 'int2': 2}


def stack(kind: str, rows: int, dim: int) -> list[jax.Array]:
  """The arrays of so many rows, drawn evenly; scales are small."""
  key = jax.random.key(0)
  if kind == 'float32':
    return [jax.random.normal(key, (rows, dim))]
  codes = jax.random.bits(key, (rows, dim * _BITS[kind] // 8), jnp.uint8)
  line = jax.random.uniform(key, (rows, 2), minval=1e-3, maxval=2e-3)
  if kind == 'int8':
    return [codes, line]
  half = line.astype(jnp.float16)
  return [codes, jax.lax.bitcast_convert_type(half, jnp.uint16)]


def main() -> None:
  """Serves measurements of the lookup."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--shape', required=True)
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--steps', type=int, required=True)
  parser.add_argument('--kind', required=True, choices=_BITS)
  parser.add_argument('--one_thread', action='store_true')
  arguments = parser.parse_args()
  if arguments.one_thread:
    os.environ['NPROC'] = '1'  # so many threads XLA starts
  if not native.in_use():
    sys.exit(f'no native kernels: {native.library().why_not}')
  keep_freed_memory()
  shape, kind = pooled.SHAPES[arguments.shape], arguments.kind
  arrays = jax.jit(lambda: stack(kind, sum(shape.rows), shape.dim))()
  first = np.cumsum([0, *shape.rows[:-1]]).astype(np.int32)
  batches = itertools.cycle(
    [
      jnp.array(ids.swapaxes(0, 1).reshape(arguments.batch, -1))
      for ids in pooled.draw(shape, arguments.batch, 8)
    ]
  )

  @jax.jit
  def look_up(arrays: list[jax.Array], ids: jax.Array) -> jax.Array:
    rows = ids + np.repeat(first, shape.length)
    groups = ((len(shape.rows), shape.length),)
    row_kind = native.RowKind[kind.upper()]
    return native.pool(row_kind, arrays, rows, None, groups, shape.dim)

  def measure() -> dict[str, float]:
    start = time.perf_counter()
    for _ in range(arguments.steps - 1):
      look_up(arrays, next(batches))
    jax.block_until_ready(look_up(arrays, next(batches)))
    return {'ms': (time.perf_counter() - start) / arguments.steps * 1e3}

  measure()
  serve(measure)


if __name__ == '__main__':
  main()
