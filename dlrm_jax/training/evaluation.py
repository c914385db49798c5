"""Evaluation: every example of a split once, scored, tallied."""

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from dlrm_jax import metrics
from dlrm_jax.batch import Batch
from dlrm_jax.data.loader import evaluation_batches
from dlrm_jax.data.schema import Source
from dlrm_jax.training.state import Task, TrainState
from dlrm_jax.training.step import eval_step


class Evaluator:
  """Scores splits; compiles once for any number of them."""

  def __init__(self, task: Task, batch_size: int) -> None:
    self._step = jax.jit(functools.partial(eval_step, task))
    self._batch_size = batch_size

  def __call__(
    self,
    state: TrainState,
    source: Source,
    progress: Callable[[int], object] = lambda examples: None,
  ) -> metrics.Tally:
    """Tallies a split.

    Args:
      state: scored with; only its parameters and tables are read.
      source: the split.
      progress: told how many examples were scored since it was last told.

    Raises:
      ValueError: a logit is not finite.
    """
    total = metrics.empty()
    for batch, logits in self._scored(state, source):
      total = metrics.tally(logits, batch.labels, batch.weights, into=total)
      progress(int(np.count_nonzero(batch.weights)))
    return total

  def _scored(
    self, state: TrainState, source: Source
  ) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches and their logits, fetched one batch late."""
    waiting: tuple[Batch, jax.Array] | None = None
    for batch in evaluation_batches(source, self._batch_size):
      logits = self._step(state, batch)
      if waiting is not None:
        yield waiting[0], np.asarray(waiting[1])
      waiting = batch, logits
    if waiting is not None:
      yield waiting[0], np.asarray(waiting[1])
