"""Scores a split of a run; messages where that cannot be done."""

from collections.abc import Callable, Mapping

import jax

from dlrm_jax.data.lists import lists_of
from dlrm_jax.data.loader import Batches, evaluation_batches
from dlrm_jax.embedding.features import mean_pooled
from dlrm_jax.errors import InputError
from dlrm_jax.metrics import binary
from dlrm_jax.run.description import Run
from dlrm_jax.run.evaluation import Evaluator, never
from dlrm_jax.run.groups import MOST_GROUPED
from dlrm_jax.run.meter import ADVICE
from dlrm_jax.run.tallying import Scores
from dlrm_jax.sharding import device_count
from dlrm_jax.training.nodes import node_count
from dlrm_jax.training.state import TrainState


def batches_of(run: Run, split: str) -> Batches:
  """Batches with every example of a split once: this process's part.

  Of a split of lists to rank, each device gets whole lists, and each node
  where tables are independent.
  """
  lists = lists_of(run.data.details, split)
  size = run.eval_batch_size
  if lists is not None:
    size = lists.batch_size(size, node_count(run.task) or device_count())
  return evaluation_batches(
    run.data.source(split),
    size,
    jax.process_index(),
    jax.process_count(),
    name=f'{run.data_name}, split {split}',
    out_of_range=run.reading.out_of_range,
    means=mean_pooled(run.task.collection.features),
  )


def score(
  run: Run,
  evaluate: Evaluator,
  state: TrainState,
  step: int,
  split: str,
  batches: Batches,
  stop: Callable[[], int | bool] = never,
) -> Scores:
  """Evaluates the state of a step.

  Args:
    run: what is trained.
    evaluate: the evaluator of the run.
    state: the state to evaluate.
    step: number of updates that the state has had.
    split: name of the split.
    batches: its batches, by `batches_of`.
    stop: as in `Evaluator`.

  Raises:
    InputError: the state gives logits that are not finite, or the split is
      damaged.
    Stopped: `stop` gave a true result.
  """
  try:
    lists = lists_of(run.data.details, split)
    return evaluate.ranked(state, batches, lists, stop)
  except binary.NotFinite as error:
    raise InputError(
      f'step {step}: evaluation: {error}: the update made parameters too '
      f'large, though its loss was finite; {ADVICE}'
    ) from None


def undefined_line(split: str, examples: float, clicks: float) -> str:
  """Says why a split has no AUC; '' where it has one.

  >>> undefined_line('test', 20, 0)
  'test has no clicks: AUC is undefined'
  """
  why = binary.lacking(examples, clicks)
  return f'{split} has {why}: AUC is undefined' if why else ''


def undefined_groups_line(split: str, scores: Mapping[str, float]) -> str:
  """Says why a split has no AUC within groups; '' where it has or needs none.

  >>> undefined_groups_line('test', {'groups': 0, 'groups_left_out': 9})
  'test has no group with a click and a non-click: uAUC and wuAUC are undefined'
  """
  if scores.get('groups', 1):
    return ''
  why = f'has no example with a group, or more than {MOST_GROUPED:,}'
  if scores['groups_left_out']:
    why = 'has no group with a click and a non-click'
  return f'{split} {why}: uAUC and wuAUC are undefined'


def poor_line(split: str, scores: Mapping[str, float]) -> str:
  """Says that a model is worse than none; '' where it is better.

  Of lists to rank nothing is said: their base rate is not that of training.

  >>> poor_line('test', {'ne': 0.9})
  ''
  >>> poor_line('test', {'ne': 1.5})[:59]
  'test: the base rate alone has a lower log-loss (NE 1.5 is a'
  """
  if 'hr_10' in scores or not scores['ne'] > 1:
    return ''
  return (
    f'{split}: the base rate alone has a lower log-loss (NE {scores["ne"]:.3g} '
    f'is above 1): the model is trained too little, or its learning rates are '
    f'too high for it (config.model.dense_scaling=standard may help)'
  )


def undefined_lines(split: str, scores: Mapping[str, float]) -> list[str]:
  """Says why metrics of a split are undefined or poor, a line for each reason.

  >>> undefined_lines('test', {'examples': 2, 'clicks': 0, 'ne': float('nan')})
  ['test has no clicks: AUC is undefined']
  """
  lines = (
    undefined_line(split, scores['examples'], scores['clicks']),
    undefined_groups_line(split, scores),
    poor_line(split, scores),
  )
  return [line for line in lines if line]
