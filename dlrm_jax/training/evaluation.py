"""Evaluation: every example once, scored, tallied."""

import functools
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from dlrm_jax import metrics
from dlrm_jax.batch import Batch
from dlrm_jax.errors import InputError
from dlrm_jax.sharding import local_part, send
from dlrm_jax.training.state import Task, TrainState
from dlrm_jax.training.step import eval_step


class Evaluator:
  """Scores batches of examples; compiles once for one size of batch."""

  def __init__(self, task: Task) -> None:
    self._step = jax.jit(functools.partial(eval_step, task))

  def __call__(
    self, state: TrainState, batches: Iterable[Batch]
  ) -> metrics.Tally:
    """Tallies batches; examples of weight 0 do not count.

    Args:
      state: scored with; only its parameters and tables are read.
      batches: of equal size.

    Raises:
      InputError: a logit is not finite.
    """
    total = metrics.empty()
    for batch, logits in self._scored(state, batches):
      try:
        total = metrics.tally(logits, batch.labels, batch.weights, into=total)
      except ValueError as error:
        raise InputError(f'evaluation: {error}') from None
    return total

  def _scored(
    self, state: TrainState, batches: Iterable[Batch]
  ) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches and their logits, fetched one batch late."""
    waiting: list[tuple[Batch, jax.Array]] = []
    for batch in batches:
      waiting.append((batch, self._step(state, send(batch))))
      if len(waiting) > 1:
        late, logits = waiting.pop(0)
        yield late, local_part(logits)
    for late, logits in waiting:
      yield late, local_part(logits)
