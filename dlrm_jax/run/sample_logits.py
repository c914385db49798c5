"""Scores examples in memory with a checkpoint."""

from collections.abc import Callable

import numpy as np

from dlrm_jax.data.loader import stream_batches
from dlrm_jax.data.schema import Block, Schema
from dlrm_jax.run.evaluation import Evaluator
from dlrm_jax.training.state import Task, TrainState


def batch_size(examples: int, most: int, devices: int) -> int:
  """Size of the equal batches that examples are scored in.

  It is a multiple of the number of devices, and only by that above `most`.

  Args:
    examples: number of examples.
    most: largest number of examples of a batch.
    devices: number of devices.

  >>> batch_size(20_000, 16_384, 8), batch_size(100, 16_384, 8)
  (10000, 104)
  """
  batches = -(-examples // most)
  each = -(-examples // batches)
  return -(-each // devices) * devices


def scorer(
  task: Task, state: TrainState, schema: Schema, size: int
) -> Callable[[Block], np.ndarray]:
  """Gives a function from n examples to their logits [n, T].

  It must be created and called within `sharding.use` of the devices. Branches
  score by the mean of their logits, independent tables as their ensemble.

  Args:
    task: the task.
    state: the state to score with.
    schema: columns of the examples.
    size: number of examples of a batch.
  """
  evaluate = Evaluator(task)

  def score(examples: Block) -> np.ndarray:
    batches = stream_batches([examples], schema, size)
    return evaluate.logits(state, batches)

  return score
