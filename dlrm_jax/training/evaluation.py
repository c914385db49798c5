"""Evaluation: every example once, scored, tallied.

Each process reads and tallies its own part of every batch; what comes out is
the tally of all, the same on every process.
"""

import functools
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from dlrm_jax import agreement, metrics
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
      batches: of equal size; this process's part of them.

    Raises:
      InputError: a logit is not finite.
    """
    total = metrics.empty()
    for batch, logits in self._scored(state, batches):
      try:
        total = metrics.tally(logits, batch.labels, batch.weights, into=total)
      except ValueError as error:
        raise InputError(f'evaluation: {error}') from None
    return _of_all(total)

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


def _of_all(tally: metrics.Tally) -> metrics.Tally:
  """The tallies of all processes, merged in their order.

  One after the other: side by side they would need memory for each process.
  """
  if jax.process_count() == 1:
    return tally
  total, mine = metrics.empty(), [np.asarray(x) for x in tally]
  for process in range(jax.process_count()):
    told = metrics.Tally._make(agreement.as_told_by(process, mine))
    total = metrics.merge(total, told)
  return total
