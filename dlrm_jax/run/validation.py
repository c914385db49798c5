"""Evaluations of split validation while a run trains, and what they decide."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from tqdm import tqdm

from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.cluster import agreement
from dlrm_jax.metrics.objective import LABELS, RANKED, SHOWN, WITHIN
from dlrm_jax.run.description import Run
from dlrm_jax.run.evaluation import Evaluator, never
from dlrm_jax.run.history import History
from dlrm_jax.run.scores import by_head, flat_scores, named, with_error
from dlrm_jax.run.scoring import (
  batches_of,
  score,
  undefined_groups_line,
  undefined_line,
)
from dlrm_jax.sharding import COPIED, sharding_of
from dlrm_jax.training.state import TrainState

SPLIT = 'validation'


class Validation:
  """Evaluates split validation, logs and prints the scores.

  Attributes:
    possible: whether there is such a split.
  """

  def __init__(
    self, run: Run, evaluate: Evaluator, history: History, bar: tqdm
  ) -> None:
    self._run, self._evaluate = run, evaluate
    self._history, self._bar = history, bar
    examples = run.data.splits.get(SPLIT, 0)
    self.possible = examples > 0
    self._warned: set[str] = set()
    clicks = run.data.clicks.get(SPLIT)
    if self.possible and clicks is not None and len(run.task.heads) == 1:
      self._warn_of_undefined(SPLIT, examples, clicks)

  def __call__(
    self, state: TrainState, step: int, stop: Callable[[], int | bool] = never
  ) -> Mapping[str, float]:
    """Scores of a state by name; {} where there is no split validation.

    Raises:
      Stopped: `stop` gave a true result.
    """
    if not self.possible:
      return {}
    batches = batches_of(self._run, SPLIT)
    found = score(self._run, self._evaluate, state, step, SPLIT, batches, stop)
    of_heads = by_head(*found)
    scores = flat_scores(of_heads)
    for name, of_head in named(SPLIT, of_heads).items():
      self._warn_of_undefined(name, of_head['examples'], of_head['clicks'])
      self._warn_of_groups(name, of_head)
      shown = '  '.join(
        f'{LABELS[metric]} {with_error(of_head, metric)}'
        for metric in self._shown(name, of_head)
      )
      self._bar.write(f'step {step:>9,}  {name} {shown}')
    self._history.add(step, {f'{SPLIT}/{k}': v for k, v in scores.items()})
    return scores

  def _warn_of_undefined(
    self, name: str, examples: float, clicks: float
  ) -> None:
    """Prints once why a head has no AUC, and what follows for the run."""
    self._warn(name, undefined_line(name, examples, clicks), ('auc',))

  def _warn_of_groups(self, name: str, scores: Mapping[str, float]) -> None:
    """Prints once why a head has no AUC within groups."""
    self._warn(name, undefined_groups_line(name, scores), WITHIN)

  def _warn(self, name: str, line: str, metrics: Sequence[str]) -> None:
    """Prints a line about undefined metrics of a head once, if it is not ''."""
    if not line or line in self._warned:
      return
    self._warned.add(line)
    if self._run.objective.metric in metrics and self._decides(name):
      line += (
        '; it neither stops the run early (config.train.patience) nor chooses '
        'the best checkpoint'
      )
    self._bar.write(line)

  def _shown(self, name: str, scores: Mapping[str, float]) -> Sequence[str]:
    """Metrics to print of a head: the usual ones, and the objective."""
    own = [self._run.objective.metric] if self._decides(name) else []
    ranked = [metric for metric in RANKED if metric in scores]
    within = [metric for metric in WITHIN if metric in scores]
    return list(dict.fromkeys([*ranked, *SHOWN, *within, *own]))

  def _decides(self, name: str) -> bool:
    """Whether the objective is a metric of this head."""
    return name in (SPLIT, f'{SPLIT}/{self._run.objective.head}')

  def catch_up(
    self, checkpoints: Checkpoints, state: TrainState, step: int
  ) -> None:
    """Makes the evaluation that a signal prevented after the last step."""
    run, history = self._run, self._history
    if not (step and self.possible and run.evaluates(step)):
      return
    if not agreement.from_first(history.evaluated(step)):
      checkpoints.add_scores(step, self(state, step))


def with_rates(
  run: Run, history: History, say: Callable[[str], object], state: TrainState
) -> TrainState:
  """The state with learning rates as low as the evaluations so far say.

  Args:
    run: what is trained.
    history: its evaluations.
    say: prints a line, where the rates fall.
    state: the state after the last evaluation.
  """
  if run.task.plateau is None:
    return state
  gains = history.gains(run.objective, run.evaluates)
  falls = agreement.from_first(run.task.plateau.falls(gains))
  product = run.task.plateau.product(falls)
  if np.float32(product) != np.asarray(state.factor):
    say(
      f'learning rates x {product:g}: no better {run.objective.label} in '
      f'{run.task.plateau.patience} evaluations'
    )
  factor = jax.device_put(np.float32(product), sharding_of(COPIED))
  return dataclasses.replace(state, factor=factor)


def stops_early(run: Run, history: History) -> bool:
  """Whether the last evaluations brought no gain, as process 0 sees it."""
  stops = history.should_stop(run.objective, run.patience, run.evaluates)
  return bool(agreement.from_first(stops))
