"""Scoring with our model. A contender: run by `benchmarks.inference`.

With --kind=int8 the tables and the layers are int8: layers are calibrated on
batches of the log.
"""

import argparse
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import kaggle
from benchmarks.latency import quantiles
from benchmarks.our_step import task_of
from benchmarks.serving import serve
from dlrm_jax import heap
from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.embedding.network import Layers
from dlrm_jax.quantization.layers import calibrate, quantize_layers
from dlrm_jax.quantization.method import Method
from dlrm_jax.scoring.engine import engine_of
from dlrm_jax.training.state import Task, TrainState, abstract_params, new_state

Score = Callable[[Inputs], jax.Array | np.ndarray]


def int8_score(task: Task, batch: int) -> Score:
  """Probabilities of a model whose tables and layers are int8.

  Args:
    task: the model in float32.
    batch: B.
  """
  state = new_state(task, jax.random.key(0))
  log = [
    Batch(Inputs(b.dense, b.ids), b.labels[:, None], np.ones_like(b.labels))
    for b in kaggle.draw(batch, 4)
  ]
  found = calibrate(
    task.network, state.layers, state.tables, log, Method.PERCENTILE
  )
  quantized = task_of(batch, 'int8')
  params = quantize_layers(state.params, abstract_params(quantized), found)
  layers = Layers(jax.tree.map(jnp.asarray, params), state.statistics)
  tables = jax.jit(quantized.network.collection.init)(jax.random.key(0))
  engine = engine_of(quantized.network, layers, tables)
  print(engine.words, flush=True)
  return engine.score


def float_score(task: Task) -> Score:
  """Probabilities of a model in float32."""
  state = new_state(task, jax.random.key(0))

  @jax.jit
  def score(state: TrainState, inputs: Inputs) -> jax.Array:
    logits = task.network.outputs(state.layers, state.tables, inputs)
    return jax.nn.sigmoid(logits)

  return functools.partial(score, state)


def main() -> None:
  """Serves measurements of calls that take and give NumPy arrays."""
  heap.keep_freed_memory()  # as train.py does
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--calls', type=int, required=True)
  parser.add_argument('--kind', choices=('float32', 'int8'), default='float32')
  arguments = parser.parse_args()
  task = task_of(arguments.batch)
  if arguments.kind == 'int8':
    score = int8_score(task, arguments.batch)
  else:
    score = float_score(task)
  inputs = [(b.dense, b.ids) for b in kaggle.draw(arguments.batch, 64)]

  def call(dense: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.asarray(score(Inputs(dense, ids)))

  measure = functools.partial(quantiles, call, inputs, arguments.calls)
  measure()
  serve(measure)


if __name__ == '__main__':
  main()
