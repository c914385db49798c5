"""A training run, described: what is trained, on what, how long, where."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dlrm_jax.data.loader import Reading
from dlrm_jax.data.schema import Scale, Schema, Source
from dlrm_jax.training.state import Task


class Data(Protocol):
  """A click log with splits: prepared or synthetic.

  Attributes:
    schema: the columns.
    splits: examples of each split.
    clicks: of each split; nothing where they are not known before.
    scale: of the dense features in split train.
    details: how it was made; 'ids' is equal where ids mean the same.
    fingerprint: equal for equal data only.
  """

  @property
  def schema(self) -> Schema: ...  # noqa: D102

  @property
  def splits(self) -> Mapping[str, int]: ...  # noqa: D102

  @property
  def clicks(self) -> Mapping[str, int]: ...  # noqa: D102

  @property
  def scale(self) -> Scale: ...  # noqa: D102

  @property
  def details(self) -> Mapping[str, Any]: ...  # noqa: D102

  @property
  def fingerprint(self) -> str: ...  # noqa: D102

  def source(self, split: str) -> Source: ...  # noqa: D102

  def count_pieces(self, feature: str) -> Iterable[np.ndarray] | None:
    """How often split train has each id, in pieces; None: nobody knows."""
    ...


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run.

  Attributes:
    task: what is trained.
    data: what it is trained on; split 'train', and 'validation' to evaluate.
    data_name: where the data is, for people.
    reading: how batches are cut from it.
    workdir: where everything is written.
    steps: updates.
    steps_per_epoch: not a whole number: batches run across its end.
    fresh_tables: whether each epoch starts with new tables.
    eval_every: steps between evaluations; there is one at the end, too.
    eval_batch_size: examples of an evaluation's batch.
    checkpoint_every: steps between checkpoints beside those of evaluations.
    keep: how many of the last checkpoints are kept beside the best.
    patience: evaluations without a better AUC after which to stop; 0: never.
    log_every: steps between lines of the log.
    average_every: steps between averages of independent tables; 0: never.
    seed: of the first state.
    config: all settings, 'auto' encodings replaced by what was chosen.
    references: split -> name -> metrics to compare with.
    notes: what is odd about it, a line each.
  """

  task: Task
  data: Data
  data_name: str
  reading: Reading
  workdir: Path
  steps: int
  steps_per_epoch: float
  fresh_tables: bool
  eval_every: int
  eval_batch_size: int
  checkpoint_every: int
  keep: int
  patience: int
  log_every: int
  average_every: int
  seed: int
  config: Mapping[str, Any]
  references: Callable[[str], Mapping[str, Mapping[str, float]]]
  notes: tuple[str, ...] = ()

  def evaluates(self, step: int) -> bool:
    """Whether there is an evaluation after this step."""
    return step % self.eval_every == 0 or step == self.steps

  def begins_epoch(self, step: int) -> bool:
    """Whether the update after `step` is the first of a later epoch."""
    epoch = round(step / self.steps_per_epoch)
    return epoch > 0 and step == round(epoch * self.steps_per_epoch)
