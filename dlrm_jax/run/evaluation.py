"""Evaluation: every example once, scored, tallied.

Each process reads and tallies its own part of every batch; what comes out is
the tally of all, the same on every process.
"""

import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_expit, logsumexp

from dlrm_jax.batch import Batch
from dlrm_jax.cluster import agreement
from dlrm_jax.errors import InputError
from dlrm_jax.metrics import binary, paired
from dlrm_jax.sharding import SPLIT, local_part, send, sharding_of
from dlrm_jax.training.nodes import compiled_average, node_count
from dlrm_jax.training.state import Task, TrainState
from dlrm_jax.training.step import eval_step

ENSEMBLE = 'ensemble'
"""All nodes together: the mean of their probabilities."""


MOST_KEPT = 50_000_000
"""Examples whose logits are kept at most: some 60 bytes each at the end."""


class Stopped(Exception):
  """An evaluation was told to stop before its last batch."""


def never() -> bool:
  """No reason to stop."""
  return False


class Evaluator:
  """Scores batches of examples; compiles once for one size of batch.

  Make it within `sharding.use` of the devices that score.
  """

  def __init__(self, task: Task) -> None:
    self._task = task
    self._step = jax.jit(
      functools.partial(eval_step, task), out_shardings=sharding_of(SPLIT)
    )

  def __call__(
    self,
    state: TrainState,
    batches: Iterable[Batch],
    stop: Callable[[], int | bool] = never,
  ) -> binary.Tally:
    """Tallies batches; examples of weight 0 do not count.

    Args:
      state: scored with; only its parameters and tables are read.
      batches: of equal size; this process's part of them.
      stop: asked before every batch, equally often on every process, whether
        to stop there.

    Raises:
      NotFinite: a logit is NaN or infinite.
      Stopped: `stop` said so.
    """
    total = binary.empty()
    for batch, logits in self._scored(state, batches, stop):
      total = binary.tally(logits, batch.labels, batch.weights, into=total)
    return _of_all(total)

  def nodes(
    self, state: TrainState, batches: Iterable[Batch]
  ) -> dict[str, binary.Tally]:
    """Tallies of every node's tables, of their mean, and of the ensemble.

    Every node scores every example. The ensemble's probability is the mean
    of the nodes'.

    Args:
      state: with independent tables.
      batches: of equal size; this process's part of them.

    Raises:
      NotFinite: a logit is NaN or infinite.
    """
    totals: dict[str, binary.Tally] = {}
    mean = compiled_average(self._task, keep=True)(state)
    for batch in batches:
      sent = send(batch)
      logits = self._of_nodes(state, sent)
      # All nodes' tables are equal here, so each scores where it is.
      logits['mean of tables'] = local_part(self._step(mean, sent))
      logits[ENSEMBLE] = logits.pop(ENSEMBLE)  # the last line of the table
      for name, x in logits.items():
        totals[name] = binary.tally(
          x, batch.labels, batch.weights, into=totals.get(name)
        )
    return {name: _of_all(total) for name, total in totals.items()}

  def keep(self, state: TrainState, batches: Iterable[Batch]) -> paired.Scored:
    """Every example of weight above 0 with its logit, of one process.

    Independent tables score as their ensemble.

    Raises:
      InputError: there are more than `MOST_KEPT` examples.
      NotFinite: a logit is NaN or infinite.
    """
    parts, count = [paired.Scored(*[np.empty(0, np.float32)] * 3)], 0
    for batch, logits in self._scored_by_all(state, batches):
      counts = np.asarray(batch.weights) > 0
      kept = (logits, batch.labels, batch.weights)
      parts.append(paired.Scored(*(np.asarray(x)[counts] for x in kept)))
      count += int(counts.sum())
      if count > MOST_KEPT:
        raise InputError(
          f'--compare keeps the logits of all examples, {MOST_KEPT:,} at most, '
          f'and there are more; compare on a part of them'
        )
    scored = paired.Scored(*map(np.concatenate, zip(*parts, strict=True)))
    bad = np.sum(~np.isfinite(scored.logits))
    if bad:
      raise binary.NotFinite(f'{bad} of {count} logits are not finite')
    return scored

  def _scored_by_all(
    self, state: TrainState, batches: Iterable[Batch]
  ) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches and their logits, those of the ensemble where there are nodes."""
    if not node_count(self._task):
      yield from self._scored(state, batches)
      return
    for batch in batches:
      yield batch, self._of_nodes(state, send(batch))[ENSEMBLE]

  def _of_nodes(self, state: TrainState, batch: Batch) -> dict[str, np.ndarray]:
    """Logits f32[B] of every node, and of the ensemble."""
    logits = {
      f'node {k}': local_part(self._step(state, batch, jnp.int32(k)))
      for k in range(node_count(self._task))
    }
    return logits | {ENSEMBLE: ensemble(np.stack(list(logits.values())))}

  def _scored(
    self,
    state: TrainState,
    batches: Iterable[Batch],
    stop: Callable[[], int | bool] = never,
  ) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches and their logits, fetched one batch late."""
    waiting: list[tuple[Batch, jax.Array]] = []
    for batch in batches:
      if stop():
        raise Stopped
      waiting.append((batch, self._step(state, send(batch))))
      if len(waiting) > 1:
        late, logits = waiting.pop(0)
        yield late, local_part(logits)
    for late, logits in waiting:
      yield late, local_part(logits)


def ensemble(logits: np.ndarray) -> np.ndarray:
  """Logits f64[B] of the mean probability of several models.

  Sums of logarithms: a probability itself is 1 from a logit of 17 (float32)
  or 37 (float64) on, and the logit of that is infinite.

  Args:
    logits: f32[models, B]. One that is not finite gives one that is not.
  """
  x = logits.astype(np.float64)
  mean = logsumexp(log_expit(x), 0) - logsumexp(log_expit(-x), 0)
  return np.where(np.isfinite(x).all(0), mean, np.nan)


def _of_all(tally: binary.Tally) -> binary.Tally:
  """The tallies of all processes, merged."""
  if jax.process_count() == 1:
    return tally
  clicks, others, low, high, *sums = tally
  (low,) = agreement.reduced([low], 'min')
  (high,) = agreement.reduced([high], 'max')
  clicks, others, total = agreement.reduced(
    [clicks, others, np.array(sums)], 'sum'
  )
  return binary.Tally(clicks, others, low, high, *map(float, total))
