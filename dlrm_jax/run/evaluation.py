"""Evaluation: scores every example once, with all members of an ensemble.

Each process reads and scores its own part of every batch; `tallying` adds up
the parts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.data.lists import Lists
from dlrm_jax.errors import InputError
from dlrm_jax.metrics import binary, paired
from dlrm_jax.run.tallying import Scores, ScoreSums
from dlrm_jax.sharding import SPLIT, local_part, send, sharding_of
from dlrm_jax.training.nodes import compiled_average, node_count
from dlrm_jax.training.state import Task, TrainState

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
  ) -> dict[str, binary.Tally]:
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
  ) -> Scores:
    """Tallies all batches, and ranks the lists that their examples are.

    Args:
      state: the state to score with; only parameters and tables are read.
      batches: batches of equal size, this process's part of each; the part
        has whole pieces of lists.
      lists: the lists; None: the examples are none.
      stop: as in `__call__`.
    """
    sums = ScoreSums(self._task.heads, lists)
    for batch, logits in self._scored(state, batches, stop):
      sums.add(batch, logits)
    return sums.total()

  def logits(self, state: TrainState, batches: Iterable[Batch]) -> np.ndarray:
    """Logits [n, T] of all examples of a weight above 0, of one process.

    Independent tables score as their ensemble.

    Args:
      state: the state to score with; only parameters and tables are read.
      batches: batches of equal size, with at least one example.

    Raises:
      NotFinite: a logit is NaN or infinite.
    """
    parts = [
      logits[np.asarray(batch.weights) > 0]
      for batch, logits in self._scored_by_all(state, batches)
    ]
    found = np.concatenate(parts)
    bad = np.sum(~np.isfinite(found))
    if bad:
      raise binary.NotFinite(f'{bad} of {found.size} logits are not finite')
    return found

  def nodes(
    self,
    state: TrainState,
    batches: Iterable[Batch],
    lists: Lists | None = None,
  ) -> dict[str, Scores]:
    """Scores of each node, of the mean of their tables, of the ensemble.

    Every node scores every example. The ensemble's probability is the mean
    of the nodes' probabilities. Only the ensemble is scored within groups.

    Args:
      state: a state with independent tables.
      batches: batches of equal size, this process's part of each.
      lists: as in `ranked`.

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
    return self._of_members((*names, _MEAN), scored, batches, lists)

  def branches(
    self,
    state: TrainState,
    batches: Iterable[Batch],
    lists: Lists | None = None,
  ) -> dict[str, Scores]:
    """Scores of each branch of the model, and of the mean of their logits.

    Only the mean is scored within groups.

    Args:
      state: the state to score with.
      batches: batches of equal size, this process's part of each.
      lists: as in `ranked`.

    Raises:
      NotFinite: a logit is NaN or infinite.
    """

    def scored(batch: Batch) -> dict[str, np.ndarray]:
      logits = local_part(self._by_branch(state, send(batch.inputs)))
      of_each = dict(zip(names, logits.swapaxes(0, 1), strict=True))
      return of_each | {ENSEMBLE: logits.mean(1)}

    names = [f'branch {k}' for k in range(self._task.network.branches)]
    return self._of_members(names, scored, batches, lists)

  def _of_members(
    self,
    names: Sequence[str],
    scored: Callable[[Batch], Mapping[str, np.ndarray]],
    batches: Iterable[Batch],
    lists: Lists | None,
  ) -> dict[str, Scores]:
    """Scores of the members of an ensemble, and of `ENSEMBLE`.

    Args:
      names: names of the members.
      scored: gives the logits f32[B, T] of each member and of the ensemble.
      batches: batches of equal size, this process's part of each.
      lists: as in `ranked`.
    """
    sums = {
      name: ScoreSums(self._task.heads, lists, grouped=name == ENSEMBLE)
      for name in (*names, ENSEMBLE)
    }
    for batch in batches:
      for name, logits in scored(batch).items():
        sums[name].add(batch, logits)
    return {name: of_one.total() for name, of_one in sums.items()}

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
  finite = np.isfinite(x).all(0)
  x = np.where(finite, x, 0)
  yes, no = (-np.logaddexp(0, -sign * x) for sign in (1, -1))
  mean = np.logaddexp.reduce(yes) - np.logaddexp.reduce(no)
  return np.where(finite, mean, np.nan)
