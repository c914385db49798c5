"""The log of a run: `metrics.jsonl`, a JSON object a line.

Lines of training have `step`, `loss` and `examples_per_second`; lines of
evaluations `step` and `SPLIT/METRIC`. A checkpoint between two lines of
training has a line with the sum of the losses since the last one. A resumed
run removes the lines after its checkpoint; except for the speed, its lines
are those of a run that never stopped. Only process 0 of a job writes.
"""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrm_jax import files
from dlrm_jax.cluster import agreement
from dlrm_jax.errors import InputError
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.run.events import Events

HISTORY = 'metrics.jsonl'
_EVALUATION = 'validation/'  # begins the names of its metrics
_UNLOGGED = 'unlogged_loss', 'unlogged_steps'
OUT_OF_RANGE = 'out_of_range'
"""Name of the count of ids that became the unknown row."""


class History:
  """Writes `metrics.jsonl` and TensorBoard's event files side by side."""

  def __init__(self, workdir: Path, step: int) -> None:
    """Opens the log of a run that continues after `step`."""
    self._path = workdir / HISTORY
    rows, bad = _read(self._path)
    self.rows = [row for row in rows if row['step'] <= step]
    self._events: Events | None = None
    if not agreement.first():
      return
    if bad:
      _put_aside(self._path, bad)
    if step and not self._path.exists():
      print(f'{self._path} is missing; the log begins anew after step {step:,}')
    lines = [files.to_json(row) + '\n' for row in self.rows]
    files.write_text(self._path, ''.join(lines))
    folder = workdir / 'tensorboard'
    with files.writing(folder):
      self._events = Events(folder, step)

  def add(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a line; it is on disk when this returns.

    Raises:
      InputError: it cannot be written.
    """
    self._write(step, values)
    if self._events is None:
      return
    with files.writing(self._path.parent / 'tensorboard'):
      for name, value in values.items():
        if math.isfinite(value):
          self._events.add(name, value, step)
      self._events.flush()

  def add_unlogged(self, step: int, loss: float, steps: int) -> None:
    """Logs the losses since the last line, at a checkpoint between lines.

    So the next line of a run that continues from there is the line of a run
    that never stopped.

    Args:
      step: the step of the checkpoint.
      loss: sum of the losses since the last line.
      steps: number of steps since the last line.
    """
    self._write(step, dict(zip(_UNLOGGED, (loss, steps), strict=True)))

  def unlogged(self, step: int) -> tuple[float, int]:
    """Sum and number of the losses that `add_unlogged` logged at a step."""
    for row in self.rows:
      if row['step'] == step and _UNLOGGED[0] in row:
        return row[_UNLOGGED[0]], row[_UNLOGGED[1]]
    return 0.0, 0

  def evaluated(self, step: int) -> bool:
    """Whether there is an evaluation of this step."""
    return any(
      row['step'] == step and any(name.startswith(_EVALUATION) for name in row)
      for row in self.rows
    )

  def _write(self, step: int, values: Mapping[str, float]) -> None:
    row = {'step': step, **values}
    self.rows.append(row)
    if self._events is None:
      return
    with files.writing(self._path), self._path.open('a') as file:
      file.write(files.to_json(row) + '\n')
      file.flush()
      os.fsync(file.fileno())

  def gains(
    self, objective: Objective, counts: Callable[[int], bool]
  ) -> list[float]:
    """The objective of each evaluation, where it is defined; higher is better.

    Args:
      objective: the metric that decides.
      counts: as `should_stop` takes it.
    """
    rows = [row for row in self.rows if counts(row['step'])]
    return [objective.gain(value) for value in values_of(objective, rows)]

  def should_stop(
    self,
    objective: Objective,
    patience: int | None,
    counts: Callable[[int], bool],
  ) -> bool:
    """Whether the last `patience` evaluations brought no better objective.

    An evaluation whose objective is undefined does not count.

    Args:
      objective: the metric that decides.
      patience: number of evaluations; None: training never stops early.
      counts: whether a run that was this long from its start has an
        evaluation at a step. A shorter run has one more, where it ended.
    """
    gains = self.gains(objective, counts)
    return (
      patience is not None
      and patience < len(gains)
      and (max(gains[-patience:]) <= max(gains[:-patience]))
    )

  def close(self) -> None:
    """Closes TensorBoard's file."""
    if self._events is not None:
      with files.writing(self._path.parent / 'tensorboard'):
        self._events.close()


def values_of(
  objective: Objective, rows: Iterable[Mapping[str, Any]]
) -> list[float]:
  """Values of the objective in a log, where it is defined."""
  scores = (
    {name.removeprefix(_EVALUATION): value for name, value in row.items()}
    for row in rows
    if any(name.startswith(_EVALUATION) for name in row)
  )
  values = (objective.value(of_one) for of_one in scores)
  return [value for value in values if value is not None]


def _row(line: bytes) -> dict[str, Any]:
  """Parses a line.

  Raises:
    ValueError: it is not a line of a log.
  """
  row = json.loads(line)
  if not isinstance(row, dict) or type(row.get('step')) is not int:
    raise ValueError('no step')
  for name, value in row.items():
    if value is not None and type(value) not in (int, float):
      raise ValueError(f'{name} is no number')
  return {k: math.nan if v is None else v for k, v in row.items()}


def _read(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
  """Reads a log: its rows, and the numbers of damaged lines from 1.

  The last line may have been cut by a crash; then it is ignored.
  """
  try:
    *lines, cut = path.read_bytes().split(b'\n')
  except FileNotFoundError:
    return [], []
  except OSError as error:
    raise InputError(f'{path}: cannot be read: {error.strerror}') from None
  rows, bad = [], []
  for number, line in enumerate(lines, 1):
    try:
      rows.append(_row(line))
    except ValueError:
      bad.append(number)
  with contextlib.suppress(ValueError):
    rows.append(_row(cut))
  return rows, bad


def _put_aside(path: Path, bad: Sequence[int]) -> None:
  """Copies a damaged log to a file beside it."""
  kept = files.unfinished_name(path.with_name(f'{path.name}.damaged'))
  with files.writing(path):
    shutil.copyfile(path, kept)
  lines = 'line' if len(bad) == 1 else 'lines'
  named = ', '.join(map(str, bad[:3])) + (', ...' if len(bad) > 3 else '')
  print(
    f'{path}: {lines} {named} damaged and left out of log and report; the '
    f'file as it was is {kept.name}'
  )


def read_history(workdir: Path) -> list[dict[str, Any]]:
  """Reads the rows of a run's log; damaged lines are left out."""
  return _read(workdir / HISTORY)[0]
