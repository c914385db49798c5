"""Members of an ensemble: nodes with tables of their own, or branches."""

from collections.abc import Iterable
from typing import NamedTuple

from dlrm_jax.batch import Batch
from dlrm_jax.data.lists import Lists
from dlrm_jax.run.evaluation import Evaluator
from dlrm_jax.run.tallying import Scores
from dlrm_jax.training.nodes import divergence, node_count
from dlrm_jax.training.state import Task, TrainState


class Members(NamedTuple):
  """What the members of an ensemble score.

  Attributes:
    kind: nodes with independent tables, or branches of the model.
    scored: scores of each member and of `ENSEMBLE`.
    divergence: table -> how far the nodes' copies are apart; empty for
      branches.
  """

  kind: str
  scored: dict[str, Scores]
  divergence: dict[str, float]


def score_members(
  task: Task,
  evaluate: Evaluator,
  state: TrainState,
  batches: Iterable[Batch],
  lists: Lists | None,
) -> Members | None:
  """Scores each member; None, and no batch is read, where there is one model.

  Args:
    task: the task.
    evaluate: its evaluator.
    state: the state to score with.
    batches: batches of equal size, this process's part of each.
    lists: the lists that the examples are; None: they are none.

  Raises:
    NotFinite: a logit is NaN or infinite.
  """
  if node_count(task):
    scored = evaluate.nodes(state, batches, lists)
    return Members('nodes', scored, divergence(task, state))
  if task.network.branches > 1:
    return Members('branches', evaluate.branches(state, batches, lists), {})
  return None
