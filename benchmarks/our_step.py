"""Our training step. A contender: run by `benchmarks.step`."""

import argparse
import itertools
import time

import jax
import jax.numpy as jnp

from benchmarks import kaggle
from benchmarks.serving import serve
from configs import criteo_kaggle
from dlrm_jax import build
from dlrm_jax.batch import Batch
from dlrm_jax.training.state import new_state
from dlrm_jax.training.step import compiled_step


def main() -> None:
  """Serves measurements of the step on batches on the device."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--steps', type=int, required=True)
  parser.add_argument('--rowwise', action='store_true')
  parser.add_argument('--bfloat16', action='store_true')
  arguments = parser.parse_args()
  config = criteo_kaggle.get_config()
  config.data.expected.rows = kaggle.ROWS
  config.train.batch_size = arguments.batch
  if arguments.rowwise:
    config.table_optimizer.name = 'rowwise_adagrad'
  if arguments.bfloat16:
    config.model.compute_dtype = 'bfloat16'
  task = build.build_task(config, *build.open_schema(config))
  update = compiled_step(task)
  state = new_state(task, jax.random.key(0))
  ones = jnp.ones(arguments.batch)
  batches = itertools.cycle(
    [
      Batch(jnp.array(b.dense), jnp.array(b.ids), jnp.array(b.labels), ones)
      for b in kaggle.draw(arguments.batch, 8)
    ]
  )

  def measure() -> dict[str, float]:
    nonlocal state
    start = time.perf_counter()
    for _ in range(arguments.steps):
      state, _ = update(state, next(batches))
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    return {'examples/s': arguments.batch * arguments.steps / seconds}

  measure()
  serve(measure)


if __name__ == '__main__':
  main()
