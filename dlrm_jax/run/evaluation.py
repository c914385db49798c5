"""Evaluation: scores every example once and tallies labels and logits.

Each process reads and tallies its own part of every batch. The result is the
tally of all parts, the same on every process.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_expit, logsumexp

from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.cluster import agreement
from dlrm_jax.data.lists import Lists
from dlrm_jax.errors import InputError
from dlrm_jax.metrics import binary, paired, ranking
from dlrm_jax.run.groups import Kept
from dlrm_jax.sharding import SPLIT, local_part, send, sharding_of
from dlrm_jax.training.heads import Head
from dlrm_jax.training.nodes import compiled_average, node_count
from dlrm_jax.training.state import Task, TrainState

Tallies = dict[str, binary.Tally]
"""The tally of each head, by its name."""


class Scores(NamedTuple):
  """The result of an evaluation.

  Attributes:
    tallies: the tally of each head.
    places: places of the positives, where the examples are lists to rank.
  """

  tallies: Tallies
  places: ranking.Places | None = None


ENSEMBLE = 'ensemble'
"""Name of all nodes together, by the mean of their probabilities; of all
branches together, by the mean of their logits."""


_MEAN = 'mean of tables'

MOST_KEPT = 50_000_000
"""Most examples whose logits are kept; each takes some 60 bytes at the end."""


class Stopped(Exception):
  """An evaluation was stopped before its last batch."""


def never() -> bool:
  """Says that there is no reason to stop."""
  return False


def tally_heads(
  heads: Sequence[Head],
  logits: np.ndarray,
  batch: Batch,
  into: Mapping[str, binary.Tally],
) -> Tallies:
  """Tallies one batch for every head.

  Args:
    heads: the tasks, one a column of logits and labels.
    logits: f32[B, T].
    batch: labels and weights; a label that is NaN does not count.
    into: tallies to add to; use the result instead afterwards.

  Raises:
    NotFinite: a logit is NaN or infinite.
  """
  tallies = {}
  for i, head in enumerate(heads):
    labels = np.asarray(batch.labels)[:, i]
    weights = np.where(np.isnan(labels), 0, batch.weights)
    tallies[head.name] = binary.tally(
      logits[:, i], labels, weights, into[head.name]
    )
  return tallies


class Evaluator:
  """Scores batches of examples; compiles once for one size of batch.

  It must be created within `sharding.use` of the devices that score.
  """

  def __init__(self, task: Task) -> None:
    self._task = task

    def score(
      state: TrainState, inputs: Inputs, node: jax.Array | None = None
    ) -> jax.Array:
      return task.network.outputs(state.layers, state.tables, inputs, node)

    def by_branch(state: TrainState, inputs: Inputs) -> jax.Array:
      return task.network.by_branch(state.layers, state.tables, inputs)

    self._score = jax.jit(score, out_shardings=sharding_of(SPLIT))
    self._by_branch = jax.jit(by_branch, out_shardings=sharding_of(SPLIT))

  def __call__(
    self,
    state: TrainState,
    batches: Iterable[Batch],
    stop: Callable[[], int | bool] = never,
  ) -> Tallies:
    """Tallies all batches; examples of weight 0 do not count.

    Args:
      state: the state to score with; only parameters and tables are read.
      batches: batches of equal size, this process's part of each.
      stop: called before every batch, equally often on every process; a true
        result stops the evaluation.

    Raises:
      NotFinite: a logit is NaN or infinite.
      Stopped: `stop` gave a true result.
    """
    return self.ranked(state, batches, None, stop).tallies

  def ranked(
    self,
    state: TrainState,
    batches: Iterable[Batch],
    lists: Lists | None,
    stop: Callable[[], int | bool] = never,
  ) -> 'Scores':
    """Tallies all batches, and ranks the lists that their examples are.

    Args:
      state: the state to score with; only parameters and tables are read.
      batches: batches of equal size, this process's part of each; the part
        has whole pieces of lists.
      lists: the lists; None: the examples are none.
      stop: as in `__call__`.
    """
    heads = self._task.heads
    totals = {head.name: binary.empty() for head in heads}
    parts, kept = [], Kept([head.name for head in heads])
    for batch, logits in self._scored(state, batches, stop):
      totals = tally_heads(heads, logits, batch, totals)
      kept.add(batch, logits)
      if lists is not None:
        shape = (-1, lists.length)
        weights = np.asarray(batch.weights).reshape(shape)
        parts.append(ranking.places(logits[:, 0].reshape(shape), weights))
    tallies = kept.into(_of_all_processes(totals))
    if lists is None:
      return Scores(tallies)
    return Scores(tallies, _whole_lists(parts, lists.pieces))

  def nodes(
    self, state: TrainState, batches: Iterable[Batch]
  ) -> dict[str, Tallies]:
    """Tallies of each node, of the mean of their tables, of the ensemble.

    Every node scores every example. The ensemble's probability is the mean
    of the nodes' probabilities. Only the ensemble is scored within groups.

    Args:
      state: a state with independent tables.
      batches: batches of equal size, this process's part of each.

    Raises:
      NotFinite: a logit is NaN or infinite.
    """
    mean = compiled_average(self._task, keep=True)(state)

    def scored(batch: Batch) -> dict[str, np.ndarray]:
      inputs = send(batch.inputs)
      # All nodes' tables are equal here, so each node scores its own part.
      of_mean = {_MEAN: local_part(self._score(mean, inputs))}
      return self._of_nodes(state, inputs) | of_mean

    names = [f'node {k}' for k in range(node_count(self._task))]
    return self._of_members((*names, _MEAN), scored, batches)

  def branches(
    self, state: TrainState, batches: Iterable[Batch]
  ) -> dict[str, Tallies]:
    """Tallies of each branch of the model, and of the mean of their logits.

    Args:
      state: the state to score with.
      batches: batches of equal size, this process's part of each.

    Raises:
      NotFinite: a logit is NaN or infinite.
    """

    def scored(batch: Batch) -> dict[str, np.ndarray]:
      logits = local_part(self._by_branch(state, send(batch.inputs)))
      of_each = dict(zip(names, logits.swapaxes(0, 1), strict=True))
      return of_each | {ENSEMBLE: logits.mean(1)}

    names = [f'branch {k}' for k in range(self._task.network.branches)]
    return self._of_members(names, scored, batches)

  def _of_members(
    self,
    names: Sequence[str],
    scored: Callable[[Batch], Mapping[str, np.ndarray]],
    batches: Iterable[Batch],
  ) -> dict[str, Tallies]:
    """Tallies of the members of an ensemble, and of `ENSEMBLE`.

    Args:
      names: names of the members.
      scored: gives the logits f32[B, T] of each member and of the ensemble.
      batches: batches of equal size, this process's part of each.
    """
    heads = self._task.heads
    totals = {
      name: {head.name: binary.empty() for head in heads}
      for name in (*names, ENSEMBLE)
    }
    kept = Kept([head.name for head in heads])
    for batch in batches:
      logits = scored(batch)
      for name, x in logits.items():
        totals[name] = tally_heads(heads, x, batch, totals[name])
      kept.add(batch, logits[ENSEMBLE])
    found = {name: _of_all_processes(total) for name, total in totals.items()}
    return found | {ENSEMBLE: kept.into(found[ENSEMBLE])}

  def keep(self, state: TrainState, batches: Iterable[Batch]) -> paired.Scored:
    """Labels, weights and logits of the first head, of one process.

    Examples of weight 0 or without that label are left out. Independent
    tables score as their ensemble.

    Raises:
      InputError: there are more than `MOST_KEPT` examples.
      NotFinite: a logit is NaN or infinite.
    """
    parts, count = [paired.Scored(*[np.empty(0, np.float32)] * 3)], 0
    for batch, logits in self._scored_by_all(state, batches):
      labels = np.asarray(batch.labels)[:, 0]
      counts = (np.asarray(batch.weights) > 0) & ~np.isnan(labels)
      kept = (logits[:, 0], labels, batch.weights)
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
    """Batches and their logits; those of the ensemble where nodes differ."""
    if not node_count(self._task):
      yield from self._scored(state, batches)
      return
    for batch in batches:
      yield batch, self._of_nodes(state, send(batch.inputs))[ENSEMBLE]

  def _of_nodes(
    self, state: TrainState, inputs: Inputs
  ) -> dict[str, np.ndarray]:
    """Logits f32[B, T] of every node, and of the ensemble."""
    logits = {
      f'node {k}': local_part(self._score(state, inputs, jnp.int32(k)))
      for k in range(node_count(self._task))
    }
    return logits | {ENSEMBLE: ensemble(np.stack(list(logits.values())))}

  def _scored(
    self,
    state: TrainState,
    batches: Iterable[Batch],
    stop: Callable[[], int | bool] = never,
  ) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches and their logits, each fetched while the next is scored."""
    waiting: list[tuple[Batch, jax.Array]] = []
    for batch in batches:
      if stop():
        raise Stopped
      waiting.append((batch, self._score(state, send(batch.inputs))))
      if len(waiting) > 1:
        late, logits = waiting.pop(0)
        yield late, local_part(logits)
    for late, logits in waiting:
      yield late, local_part(logits)


def ensemble(logits: np.ndarray) -> np.ndarray:
  """Logits f64[B, T] of the mean probability of several models.

  Computed by sums of logarithms: a probability is rounded to 1 from a logit
  of 17 (float32) or 37 (float64) on, and the logit of 1 is infinite.

  Args:
    logits: f32[models, B, T]; where one is not finite, the result is NaN.
  """
  x = logits.astype(np.float64)
  mean = logsumexp(log_expit(x), 0) - logsumexp(log_expit(-x), 0)
  return np.where(np.isfinite(x).all(0), mean, np.nan)


def _of_all_processes(tallies: Tallies) -> Tallies:
  """Adds up the tallies of all processes."""
  if jax.process_count() == 1:
    return tallies
  return {name: _added(tally) for name, tally in tallies.items()}


def _added(tally: binary.Tally) -> binary.Tally:
  """The sum of the tallies that all processes have."""
  clicks, others, low, high, *sums = tally[:-1]
  (low,) = agreement.reduced([low], 'min')
  (high,) = agreement.reduced([high], 'max')
  clicks, others, total = agreement.reduced(
    [clicks, others, np.array(sums)], 'sum'
  )
  numbers: Any = map(float, total)
  return binary.Tally(clicks, others, low, high, *numbers)


def _whole_lists(
  parts: Sequence[ranking.Places], pieces: int
) -> ranking.Places:
  """The places in whole lists, on every process.

  Args:
    parts: the places in the pieces that this process has of each batch.
    pieces: number of consecutive pieces of a list.
  """
  if not parts:
    empty = np.zeros(0, np.int64)
    return ranking.Places(empty, empty, empty > 0)
  mine = np.stack(
    [np.stack([np.asarray(x, np.int64) for x in p]) for p in parts]
  )
  # [batch, process, piece of the batch, field]: the order of the pieces.
  batches, fields, count = mine.shape
  found = np.zeros((batches, jax.process_count(), count, fields), np.int64)
  found[:, jax.process_index()] = mine.swapaxes(1, 2)
  found = agreement.total_of(found).reshape(-1, fields)
  found = found[: len(found) // pieces * pieces]
  above, tied, counted = found.reshape(-1, pieces, fields).sum(1).T
  return ranking.Places(above, tied, counted > 0)
