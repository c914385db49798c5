"""The checkpoints of a run, read: which there are, the best, their states.

Reading needs TensorStore; Orbax, which writes, is not imported.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax

from dlrm_jax.checkpoint.damage import Damaged, explain_read_errors
from dlrm_jax.checkpoint.fits import check_fits, leaves
from dlrm_jax.checkpoint.stored import (
  STATE,
  Stored,
  open_stored,
  read_arrays,
  read_metrics,
  read_state,
)
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.network import Layers
from dlrm_jax.errors import InputError
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.training.state import TrainState

AUC = Objective('auc', higher=True)


class Saved:
  """The checkpoints in a folder, numbered by step; nothing is changed."""

  def __init__(
    self, folder: Path, layout: Layout, objective: Objective = AUC
  ) -> None:
    """Opens a folder of checkpoints.

    Args:
      folder: folder of the checkpoints; may be absent.
      layout: layout of the tables that are wanted.
      objective: the metric that decides which checkpoint is the best.
    """
    self._objective = objective
    self._folder = folder
    self._layout = layout
    self._said: set[str] = set()

  def _say(self, text: str) -> None:
    """Prints a line once."""
    if text not in self._said:
      self._said.add(text)
      print(text)

  @property
  def steps(self) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    steps = []
    try:
      names = [path.name for path in self._folder.iterdir()]
      for name in names:
        if not name.isdecimal() or str(int(name)) != name:
          continue
        path = self._folder / name
        if (path / STATE).is_dir():
          steps.append(int(name))
        elif path.exists():
          self._say(f'{path}: not a checkpoint, it has no {STATE}; passed over')
    except (FileNotFoundError, NotADirectoryError):
      return []
    except OSError as error:
      raise InputError(
        f'{error.filename}: cannot be read: {error.strerror}'
      ) from None
    return sorted(steps)

  @property
  def latest(self) -> int | None:
    """The last step with a checkpoint, None when there is none."""
    return max(self.steps, default=None)

  @property
  def best(self) -> int | None:
    """The step of the best objective; the last where none has one."""
    scored = [
      (gain, step)
      for step in self.steps
      if (gain := self._gain(step)) is not None and math.isfinite(gain)
    ]
    return max(scored)[1] if scored else self.latest

  def metrics(self, step: int) -> dict[str, float]:
    """Metrics of a checkpoint; empty if it was not evaluated."""
    folder = self._folder / str(step)
    with explain_read_errors(folder, []):
      return read_metrics(folder)

  def open(self, step: int) -> Stored:
    """Opens a checkpoint, whose arrays are read piece by piece.

    Raises:
      InputError: there is no such checkpoint, or it is damaged.
    """
    folder, _ = self._existing(step)
    with explain_read_errors(folder, []):
      return open_stored(folder)

  def _existing(self, step: int) -> tuple[Path, list[int]]:
    """The folder of a checkpoint, and the steps of the others."""
    steps = self.steps
    if step not in steps:
      existing = ', '.join(map(str, steps)) or 'none'
      raise InputError(
        f'{self._folder}: no checkpoint of step {step}; there are: {existing}'
      )
    others = [other for other in steps if other != step]
    return self._folder / str(step), others

  def named(self, name: str | int) -> int:
    """The step that a word names: 'best', 'latest', or a step itself.

    Raises:
      InputError: it is none of these, or there is no checkpoint.
    """
    if name in ('best', 'latest'):
      step = self.best if name == 'best' else self.latest
      if step is None:
        raise InputError(
          f'{self._folder}: no checkpoint in the workdir; train first'
        )
      return step
    if not str(name).isdecimal():
      raise InputError(f'checkpoint {name!r}: expected best, latest or a step')
    self._existing(int(name))
    return int(name)

  def _gain(self, step: int) -> float | None:
    """The objective, higher is better; None: undefined; inf: unreadable."""
    folder = self._folder / str(step)
    try:
      value = self._objective.value(read_metrics(folder))
    except (Damaged, OSError) as error:
      if folder.exists():
        self._say(f'{folder}: not taken for the best, as {error}')
      return math.inf
    return None if value is None else self._objective.gain(value)

  def restore(self, step: int, abstract: TrainState) -> TrainState:
    """Reads a checkpoint, whatever layout and devices wrote it.

    Args:
      step: step of the checkpoint.
      abstract: shapes, dtypes and shardings of the state wanted. Fields that
        are None are not read.

    Raises:
      InputError: there is no such checkpoint, it cannot be read or is damaged,
        or its arrays differ from those of the config and the data.
    """
    path, others = self._existing(step)
    with explain_read_errors(path, others):
      stored = open_stored(path)
      return read_state(stored, abstract, self._layout)

  def restore_for_evaluation(
    self, step: int, abstract: TrainState
  ) -> TrainState:
    """Reads a checkpoint; the states of its optimizers are None."""
    return self.restore(
      step, dataclasses.replace(abstract, opt_state=None, table_state=None)
    )

  def restore_layers(self, step: int, abstract: TrainState) -> Layers:
    """Reads the layers of a checkpoint; no table is read.

    Raises:
      InputError: as of `restore`.
    """
    path = self._folder / str(step)
    scoring = dataclasses.replace(abstract, opt_state=None, table_state=None)
    nothing: dict[str, Any] = dict.fromkeys(('step', 'tables', 'factor'))
    wanted = dataclasses.replace(scoring, **nothing)
    with explain_read_errors(path, []):
      stored = open_stored(path)
      arrays = stored.arrays
      check_fits(path, stored.layout, arrays, scoring, self._layout)
      read = read_arrays(arrays, leaves(wanted))
    _, structure = jax.tree.flatten(wanted)
    state = jax.tree.unflatten(structure, [read[k] for k in leaves(wanted)])
    return state.layers
