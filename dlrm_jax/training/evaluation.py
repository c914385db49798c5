"""Evaluation: every example once, scored, tallied.

Each process reads and tallies its own part of every batch; what comes out is
the tally of all, the same on every process.
"""

import functools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, logit

from dlrm_jax import agreement, metrics
from dlrm_jax.batch import Batch
from dlrm_jax.errors import InputError
from dlrm_jax.sharding import local_part, send
from dlrm_jax.training.nodes import compiled_average, node_count
from dlrm_jax.training.state import Task, TrainState
from dlrm_jax.training.step import eval_step


class Evaluator:
  """Scores batches of examples; compiles once for one size of batch."""

  def __init__(self, task: Task) -> None:
    self._task = task
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

  def nodes(
    self, state: TrainState, batches: Iterable[Batch]
  ) -> dict[str, metrics.Tally]:
    """Tallies of every node's tables, of their mean, and of the ensemble.

    Every node scores every example. The ensemble's probability is the mean
    of the nodes'.

    Args:
      state: with independent tables.
      batches: of equal size; this process's part of them.
    """
    mean = compiled_average(self._task, keep=True)(state)
    count = node_count(self._task)
    names = [f'node {k}' for k in range(count)]
    totals = {
      name: metrics.empty() for name in [*names, 'mean of tables', 'ensemble']
    }
    for batch in batches:
      sent = send(batch)
      logits = {
        name: local_part(self._step(state, sent, jnp.int32(k)))
        for k, name in enumerate(names)
      }
      # All nodes' tables are equal here, so each scores where it is.
      logits['mean of tables'] = local_part(self._step(mean, sent))
      chances = expit(np.stack([logits[name] for name in names]))
      logits['ensemble'] = logit(np.mean(chances, 0, dtype=np.float64))
      for name, x in logits.items():
        totals[name] = metrics.tally(
          x, batch.labels, batch.weights, into=totals[name]
        )
    return {name: _of_all(total) for name, total in totals.items()}

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
