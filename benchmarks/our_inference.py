"""Scoring with our model. A contender: run by `benchmarks.inference`."""

import argparse
import functools

import jax
import numpy as np

from benchmarks import kaggle
from benchmarks.latency import quantiles
from benchmarks.our_step import task_of
from benchmarks.serving import serve
from dlrm_jax import heap
from dlrm_jax.batch import Inputs
from dlrm_jax.training.state import TrainState, new_state


def main() -> None:
  """Serves measurements of calls that take and give NumPy arrays."""
  heap.keep_freed_memory()  # as train.py does
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--calls', type=int, required=True)
  arguments = parser.parse_args()
  task = task_of(arguments.batch)
  state = new_state(task, jax.random.key(0))

  @jax.jit
  def score(state: TrainState, inputs: Inputs) -> jax.Array:
    logits = task.network.outputs(state.layers, state.tables, inputs)
    return jax.nn.sigmoid(logits)

  inputs = [(b.dense, b.ids) for b in kaggle.draw(arguments.batch, 64)]

  def call(dense: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.asarray(score(state, Inputs(dense, ids)))

  measure = functools.partial(quantiles, call, inputs, arguments.calls)
  measure()
  serve(measure)


if __name__ == '__main__':
  main()
