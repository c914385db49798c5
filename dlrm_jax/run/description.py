"""The description of a training run: network, data, length, folder."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dlrm_jax.data.loader import Reading
from dlrm_jax.data.schema import Data
from dlrm_jax.embedding.features import Feature
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.training.state import Task


class Due(NamedTuple):
  """What is due after a step.

  Attributes:
    log: a line of the log.
    evaluation: an evaluation of split validation.
    checkpoint: a checkpoint.
  """

  log: bool
  evaluation: bool
  checkpoint: bool


class Origin(NamedTuple):
  """A run that another one starts from.

  Attributes:
    objective: the metric that chooses its best checkpoint.
    ids: a digest that is equal for data whose ids mean the same.
    kinds: kinds of the values of its columns; empty where they are not known.
    features: its sparse features, with their encodings.
  """

  objective: Objective
  ids: str
  kinds: Mapping[str, str]
  features: tuple[Feature, ...]


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run.

  Attributes:
    task: what is trained.
    data: the data; it has a split 'train', and 'validation' to evaluate.
    data_name: name of the data for people.
    reading: how batches are cut from the data.
    workdir: the folder that everything is written to.
    steps: number of updates.
    steps_per_epoch: steps of an epoch, not a whole number: batches run across
      its end.
    fresh_tables: whether each epoch starts with new tables.
    objective: the metric that chooses the best checkpoint.
    eval_every: steps between evaluations; there is one at the end, too.
    eval_batch_size: number of examples of an evaluation's batch.
    checkpoint_every: steps between checkpoints; evaluations save one, too.
    keep: number of the last checkpoints that are kept beside the best.
    patience: number of evaluations without a better objective after which
      training stops; None: it does not stop early.
    log_every: steps between lines of the log.
    average_every: steps between averages of independent tables; None: they
      are not averaged.
    seed: seed of the first state.
    config: all settings, 'auto' encodings replaced by the chosen ones.
    init_from: workdirs of runs whose best checkpoints give layers and tables of
      equal names to the first state, the later ones last.
    origin: gives the run in such a workdir.
    references: gives for a split the metrics to compare with, by head and
      name.
    notes: lines about what is unusual in the run.
  """

  task: Task
  data: Data
  data_name: str
  reading: Reading
  workdir: Path
  steps: int
  steps_per_epoch: float
  fresh_tables: bool
  objective: Objective
  eval_every: int
  eval_batch_size: int
  checkpoint_every: int
  keep: int
  patience: int | None
  log_every: int
  average_every: int | None
  seed: int
  config: Mapping[str, Any]
  init_from: tuple[Path, ...]
  origin: Callable[[Path], Origin]
  references: Callable[[str], Mapping[str, Mapping[str, Mapping[str, float]]]]
  notes: tuple[str, ...] = ()

  def evaluates(self, step: int) -> bool:
    """Whether there is an evaluation after this step."""
    return step % self.eval_every == 0 or step == self.steps

  def due(self, step: int) -> Due:
    """What is due after this step; an evaluation is logged and saved."""
    evaluation = self.evaluates(step)
    return Due(
      log=evaluation or step % self.log_every == 0,
      evaluation=evaluation,
      checkpoint=evaluation or step % self.checkpoint_every == 0,
    )

  def begins_epoch(self, step: int) -> bool:
    """Whether the update after `step` is the first of a later epoch."""
    epoch = round(step / self.steps_per_epoch)
    return epoch > 0 and step == round(epoch * self.steps_per_epoch)
