"""A run and the checkpoint of it that a command scores with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dlrm_jax.build.trained import Trained, trained
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.cluster import agreement
from dlrm_jax.run import workdir
from dlrm_jax.training.state import TrainState, abstract_state


class ChosenRun(NamedTuple):
  """A run and one of its checkpoints.

  Attributes:
    folder: the workdir.
    run: the run.
    step: step of the checkpoint.
    saved: all checkpoints of the run.
  """

  folder: Path
  run: Trained
  step: int
  saved: Saved

  def state(self) -> TrainState:
    """The state of the checkpoint without the optimizers' states."""
    abstract = abstract_state(self.run.task)
    return self.saved.restore_for_evaluation(self.step, abstract)


def choose(
  folder: Path, checkpoint: str, defaults: Mapping[str, Any]
) -> ChosenRun:
  """Builds a run again from its workdir, and finds a checkpoint.

  All processes of a job get the one that process 0 finds.

  Args:
    folder: the workdir.
    checkpoint: value of --checkpoint: best, latest or a step.
    defaults: default of every field of a config, for those that it lacks.

  Raises:
    InputError: the folder is no workdir, or has no checkpoint.
  """
  run = trained(*workdir.read_settings(folder, defaults))
  layout = run.task.collection.layout
  saved = Saved(folder / 'checkpoints', layout, run.objective)
  step = saved.named(checkpoint)
  step = agreement.from_first(step)  # a live run may have a better one by now
  return ChosenRun(folder, run, step, saved)
