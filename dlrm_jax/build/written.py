"""Writes a workdir around a state that no training in it has made."""

import contextlib
from pathlib import Path

from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.run import workdir
from dlrm_jax.training.state import TrainState


def write_workdir(
  folder: Path,
  claim: workdir.Claim,
  objective: Objective,
  layout: Layout,
  state: TrainState,
  step: int = 0,
) -> None:
  """Writes a workdir, as train.py starts one, and its one checkpoint.

  Args:
    folder: the workdir, which must not exist.
    claim: its settings and the identity of its data.
    objective: the metric that will choose the best checkpoint.
    layout: layout of the tables.
    state: the state; an optimizer's state that is None is not written, and
      training cannot go on from it.
    step: step of the checkpoint.
  """
  with (
    workdir.claimed(folder, claim),
    contextlib.closing(
      Checkpoints(folder / 'checkpoints', layout, 1, objective)
    ) as checkpoints,
  ):
    checkpoints.save(step, state, {})
