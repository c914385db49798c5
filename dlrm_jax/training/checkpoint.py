"""Checkpoints: Orbax keeps the state, the last few and the best by AUC.

A checkpoint appears under its number only when it is complete, so a run
killed while it saves resumes from the one before.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dlrm_jax.errors import InputError
from dlrm_jax.training.state import TrainState

_STATE = 'state'


def _auc(metrics: Mapping[str, Any]) -> float:
  auc = metrics.get('auc')
  return -1.0 if auc is None or math.isnan(auc) else auc


class Checkpoints:
  """The checkpoints of one run, numbered by step."""

  def __init__(self, folder: Path, keep: int | None = None) -> None:
    """Opens a folder of checkpoints.

    Args:
      folder: made when it is written to and not there.
      keep: the last `keep` are kept beside the best; None opens the folder
        for reading only.
    """
    self._folder = folder
    reading = keep is None
    managers = ocp.checkpoint_managers
    self._manager = ocp.CheckpointManager(
      folder.absolute(),
      options=ocp.CheckpointManagerOptions(
        create=not reading,
        read_only=reading,
        cleanup_tmp_directories=not reading,
        best_fn=_auc,
        preservation_policy=None
        if reading
        else managers.AnyPreservationPolicy(
          [
            managers.LatestN(keep),
            managers.BestN(
              get_metric_fn=_auc,
              n=1,
              keep_checkpoints_without_metrics=False,
            ),
          ]
        ),
      ),
      item_handlers={_STATE: ocp.StandardCheckpointHandler()},
    )

  @property
  def steps(self) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    return sorted(self._manager.all_steps())

  @property
  def latest(self) -> int | None:
    """The last step with a checkpoint, None when there is none."""
    return self.steps[-1] if self.steps else None

  @property
  def best(self) -> int | None:
    """The step of the best validation AUC; the last where none has one."""
    scored = [
      (_auc(metrics), step)
      for step in self.steps
      if (metrics := self._manager.metrics(step))
    ]
    return max(scored)[1] if scored else self.latest

  def save(
    self, step: int, state: TrainState, metrics: Mapping[str, float] | None
  ) -> None:
    """Starts to save and returns: the state is copied, then written.

    Args:
      step: updates made.
      state: all of it.
      metrics: of an evaluation of this very state, if there was one.
    """
    self._manager.save(
      step,
      args=ocp.args.Composite(**{_STATE: ocp.args.StandardSave(state)}),
      metrics=None if metrics is None else dict(metrics),
      force=True,
    )

  def restore(self, step: int, abstract: TrainState) -> TrainState:
    """Reads a checkpoint.

    Args:
      step: which.
      abstract: shapes, dtypes and shardings of the state wanted.

    Raises:
      InputError: there is no such checkpoint, or its arrays have other
        shapes than the config and the data ask for.
    """
    if step not in self.steps:
      there = ', '.join(map(str, self.steps)) or 'none'
      raise InputError(
        f'{self._folder}: no checkpoint of step {step}; there are: {there}'
      )
    self._check_shapes(step, abstract)
    wanted = ocp.args.Composite(**{_STATE: ocp.args.StandardRestore(abstract)})
    try:
      restored = self._manager.restore(step, args=wanted)
    except (OSError, ValueError) as error:
      raise self._damaged(step, error) from error
    # Through an identity, since restored buffers can't always be donated.
    return jax.jit(lambda x: x, donate_argnums=0)(restored[_STATE])

  def _damaged(self, step: int, error: Exception) -> InputError:
    line = (str(error).strip() or repr(error)).splitlines()[0]
    return InputError(
      f'{self._folder / str(step)}: damaged ({line[:200]}); remove this folder '
      f'to go on from the checkpoint before it'
    )

  def _check_shapes(self, step: int, abstract: TrainState) -> None:
    try:
      saved = self._manager.item_metadata(step)[_STATE]
    except (OSError, ValueError, KeyError) as error:
      raise self._damaged(step, error) from error
    found = _shapes(saved)
    wanted = _shapes(ocp.tree.serialize_tree(abstract, keep_empty_nodes=True))
    for name in sorted(found.keys() | wanted.keys()):
      if found.get(name) != wanted.get(name):
        raise InputError(
          f'{self._folder / str(step)}: {name} has shape '
          f'{found.get(name, "(absent)")} in the checkpoint and '
          f'{wanted.get(name, "(absent)")} by the config and the data; '
          f'use the config and the prepared data that it was trained with'
        )

  def wait(self) -> None:
    """Returns when everything is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and ends the manager's threads."""
    self.wait()
    self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(x.shape)
    for path, x in leaves
    if hasattr(x, 'shape')
  }
