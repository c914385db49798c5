"""Our epoch of Frappe. A contender: run by `benchmarks.family`."""

import argparse
import contextlib
import math
import tempfile
import time
from pathlib import Path

import jax

from benchmarks.serving import serve
from configs import frappe
from dlrm_jax import heap
from dlrm_jax.build.data import open_data
from dlrm_jax.build.run import build_run
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.run.evaluation import Evaluator
from dlrm_jax.run.loop import batches_from, updates
from dlrm_jax.run.meter import Meter
from dlrm_jax.run.scores import by_head, flat_scores
from dlrm_jax.run.scoring import batches_of, score
from dlrm_jax.run.validation import SPLIT
from dlrm_jax.training.state import new_state
from dlrm_jax.training.step import compiled_step


def main() -> None:
  """Serves measurements of an epoch: steps, validation, checkpoint."""
  heap.keep_freed_memory()  # as train.py does
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', required=True, help='a prepared set')
  parser.add_argument('--variant', required=True, help='of configs/frappe.py')
  parser.add_argument('--dtype', default='float32', help='of products')
  arguments = parser.parse_args()
  config = frappe.get_config(arguments.variant)
  config.model.compute_dtype = arguments.dtype
  config.data.dir = arguments.data
  with contextlib.ExitStack() as stack:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    run = build_run(config, open_data(config), folder)
    checkpoints = stack.enter_context(
      contextlib.closing(
        Checkpoints(
          folder / 'checkpoints',
          run.task.collection.layout,
          run.keep,
          run.objective,
        )
      )
    )
    evaluate = Evaluator(run.task)
    steps = updates(
      run,
      compiled_step(run.task),
      batches_from(run, run.data.source('train'), 0),
      new_state(run.task, jax.random.key(run.seed)),
      0,
    )

    def measure() -> dict[str, float]:
      start = time.perf_counter()
      meter = Meter(run.reading.batch_size)
      step, state, metrics = next(steps)
      for _ in range(math.ceil(run.steps_per_epoch) - 1):
        meter.add(step, metrics)
        step, state, metrics = next(steps)
      meter.add(step, metrics)
      meter.settle()
      trained = time.perf_counter()
      batches = batches_of(run, SPLIT)
      found = score(run, evaluate, state, step, SPLIT, batches)
      scores = flat_scores(by_head(*found))
      checkpoints.save(step, state, scores)
      end = time.perf_counter()
      return {
        'epoch': end - start,
        'validation and checkpoint': end - trained,
        'auc': scores['auc'],
      }

    measure()
    serve(measure)


if __name__ == '__main__':
  main()
