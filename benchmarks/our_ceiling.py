"""Ceilings, and the step's layers. Run by `benchmarks.ceilings`."""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import kaggle
from benchmarks.our_step import task_of
from benchmarks.serving import serve
from dlrm_jax import heap
from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.training.gradients import gradients

_TIMES = 3
"""A program runs so often in a measurement."""


def _product(size: int, dtype: str) -> Callable[[], Any]:
  """A product of two square matrices, summed in float32."""
  x = jnp.ones((size, size), dtype)
  dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)
  return functools.partial(jax.jit(dot), x, x)


def _copy(size: int) -> Callable[[], Any]:
  """Reads and writes so many bytes each, in one pass."""
  return functools.partial(jax.jit(jnp.negative), jnp.ones(size // 4))


def _layers(batch: int, dtype: str) -> Callable[[], Any]:
  """The step's layers and interaction, forward and backward."""
  task = task_of(batch, dtype)
  (b,) = kaggle.draw(batch, 1)
  dense, ids, labels = map(jnp.array, b)
  made = Batch(Inputs(dense, ids), labels[:, None], jnp.ones(batch))
  vectors = jax.tree.map(
    lambda x: jnp.ones((batch, *x.shape[1:])), task.collection.empty_vectors()
  )
  layers = task.network.init(jax.random.key(0))
  return functools.partial(
    jax.jit(functools.partial(gradients, task)),
    layers,
    made,
    vectors,
    jnp.uint32(0),
  )


def main() -> None:
  """Serves seconds of each program."""
  heap.keep_freed_memory()  # as train.py does
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--size', type=int, required=True, help='of matrices')
  parser.add_argument('--bytes', type=int, required=True, help='to copy')
  parser.add_argument('--batch', type=int, required=True)
  arguments = parser.parse_args()
  programs = {'copy': _copy(arguments.bytes)}
  for dtype in ('float32', 'bfloat16'):
    programs[f'product {dtype}'] = _product(arguments.size, dtype)
    programs[f'layers {dtype}'] = _layers(arguments.batch, dtype)

  def measure() -> dict[str, float]:
    seconds = {}
    for name, program in programs.items():
      start = time.perf_counter()
      for _ in range(_TIMES):
        jax.block_until_ready(program())
      seconds[name] = (time.perf_counter() - start) / _TIMES
    return seconds

  measure()
  serve(measure)


if __name__ == '__main__':
  main()
