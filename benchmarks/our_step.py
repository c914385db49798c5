"""Our training step. A contender: run by `benchmarks.step`, `.ceilings`."""

import argparse
import itertools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks import kaggle
from benchmarks.serving import serve
from configs import criteo_kaggle
from dlrm_jax import heap
from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.build.data import open_schema
from dlrm_jax.build.task import build_task
from dlrm_jax.training.state import Task, new_state
from dlrm_jax.training.step import compiled_step


def task_of(batch: int, kind: str = 'float32') -> Task:
  """The Kaggle config with the tables that all contenders have.

  Args:
    batch: B.
    kind: float32, bfloat16, int8 (it only scores, and its tables are int8,
      too), or rowwise: float32 with row-wise Adagrad.
  """
  config = criteo_kaggle.get_config()
  config.data.expected.rows = kaggle.ROWS
  config.train.batch_size = batch
  if kind == 'rowwise':
    config.table_optimizer.name = 'rowwise_adagrad'
  else:
    config.model.compute_dtype = kind
  if kind == 'int8':
    config.model.activations = 'calibrated'
    config.tables.storage = 'int8'
  return build_task(config, *open_schema(config))


def stepper(task: Task, batches: list[kaggle.Drawn]) -> Callable[[int], None]:
  """Makes so many steps, and waits for the last one."""
  update, state = compiled_step(task), new_state(task, jax.random.key(0))
  ones = jnp.ones(len(batches[0].labels))
  sent = itertools.cycle(
    [
      Batch(
        Inputs(jnp.array(b.dense), jnp.array(b.ids)),
        jnp.array(b.labels)[:, None],
        ones,
      )
      for b in batches
    ]
  )

  def make_steps(count: int) -> None:
    nonlocal state
    for _ in range(count):
      state, _ = update(state, next(sent))
    jax.block_until_ready(state)

  return make_steps


def main() -> None:
  """Serves measurements of the step on batches on the device."""
  heap.keep_freed_memory()  # as train.py does
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--steps', type=int, required=True)
  parser.add_argument('--kinds', required=True, help='as in float32,rowwise')
  arguments = parser.parse_args()
  batches = kaggle.draw(arguments.batch, 8)
  steppers = {
    kind: stepper(task_of(arguments.batch, kind), batches)
    for kind in arguments.kinds.split(',')
  }

  def measure() -> dict[str, float]:
    rates = {}
    for kind, make_steps in steppers.items():
      start = time.perf_counter()
      make_steps(arguments.steps)
      seconds = time.perf_counter() - start
      rates[kind] = arguments.batch * arguments.steps / seconds
    return rates

  measure()
  serve(measure)


if __name__ == '__main__':
  main()
