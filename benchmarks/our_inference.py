"""Scoring with our model. A contender: run by `benchmarks.inference`."""

import argparse
import functools

import jax
import numpy as np

from benchmarks import kaggle
from benchmarks.latency import quantiles
from benchmarks.our_step import build_task
from benchmarks.serving import serve
from dlrm_jax import heap
from dlrm_jax.batch import Batch
from dlrm_jax.training.state import new_state
from dlrm_jax.training.step import eval_step


def main() -> None:
  """Serves measurements of calls that take and give NumPy arrays."""
  heap.keep_freed_memory()  # as train.py does
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--calls', type=int, required=True)
  arguments = parser.parse_args()
  task = build_task(arguments.batch)
  state = new_state(task, jax.random.key(0))
  score = jax.jit(lambda *given: jax.nn.sigmoid(eval_step(task, *given)))
  ones = np.ones(arguments.batch, np.float32)
  inputs = [
    (b.dense, b.ids, b.labels) for b in kaggle.draw(arguments.batch, 64)
  ]

  def call(
    dense: np.ndarray, ids: np.ndarray, labels: np.ndarray
  ) -> np.ndarray:
    return np.asarray(score(state, Batch(dense, ids, labels, ones)))

  measure = functools.partial(quantiles, call, inputs, arguments.calls)
  measure()
  serve(measure)


if __name__ == '__main__':
  main()
