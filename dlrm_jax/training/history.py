"""The log of a run: one JSON line a report, readable while it runs.

Lines of training hold `step`, `loss`, `examples_per_second`; lines of
evaluations `step` and `SPLIT/METRIC`. A checkpoint between two of them has a
line with the sum of the losses since the last one. A resumed run forgets what
was logged after its checkpoint; its lines, but for the speed, are those of a
run that never stopped. Of the processes of a job the first one writes.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from dlrm_jax import agreement
from dlrm_jax.training.workdir import to_json, write_text

HISTORY = 'metrics.jsonl'
_AUC = 'validation/auc'
_UNLOGGED = 'unlogged_loss', 'unlogged_steps'
OUT_OF_RANGE = 'out_of_range'
"""Ids that became the unknown row, up to a checkpoint."""


class History:
  """Writes `metrics.jsonl` and TensorBoard's event files side by side."""

  def __init__(self, workdir: Path, step: int) -> None:
    """Opens the log of a run that goes on after `step`."""
    self._path = workdir / HISTORY
    self.rows = [r for r in read_history(workdir) if r['step'] <= step]
    self._writer: SummaryWriter | None = None
    if agreement.first():
      lines = [to_json(row) + '\n' for row in self.rows]
      write_text(self._path, ''.join(lines))
      self._writer = SummaryWriter(
        str(workdir / 'tensorboard'), purge_step=step + 1
      )

  def add(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a line; it is on disk when this returns."""
    self._write(step, values)
    if self._writer is None:
      return
    for name, value in values.items():
      if math.isfinite(value):
        self._writer.add_scalar(name, value, step)

  def add_unlogged(self, step: int, loss: float, steps: int) -> None:
    """Keeps what no line tells yet at a checkpoint between two lines.

    So the next line of a run that goes on from there is the one of a run
    that never stopped.

    Args:
      step: the last one.
      loss: sum of the losses since the last line.
      steps: since then.
    """
    self._write(step, dict(zip(_UNLOGGED, (loss, steps), strict=True)))

  def unlogged(self, step: int) -> tuple[float, int]:
    """What `add_unlogged` kept at a step: sum of losses, steps."""
    for row in self.rows:
      if row['step'] == step and _UNLOGGED[0] in row:
        return row[_UNLOGGED[0]], row[_UNLOGGED[1]]
    return 0.0, 0

  def evaluated(self, step: int) -> bool:
    """Whether there is an evaluation of this step."""
    return any(row['step'] == step and _AUC in row for row in self.rows)

  def _write(self, step: int, values: Mapping[str, float]) -> None:
    row = {'step': step, **values}
    self.rows.append(row)
    if self._writer is None:
      return
    with self._path.open('a') as file:
      file.write(to_json(row) + '\n')
      file.flush()
      os.fsync(file.fileno())

  def should_stop(self, patience: int) -> bool:
    """Whether the last `patience` evaluations brought no better AUC.

    An evaluation whose AUC is undefined is none of them.
    """
    aucs = _aucs(self.rows)
    return 0 < patience < len(aucs) and (
      max(aucs[-patience:]) <= max(aucs[:-patience])
    )

  def close(self) -> None:
    """Flushes TensorBoard's files."""
    if self._writer is not None:
      self._writer.close()


def _aucs(rows: Iterable[Mapping[str, Any]]) -> list[float]:
  aucs = [row[_AUC] for row in rows if _AUC in row]
  return [auc for auc in aucs if math.isfinite(auc)]


def has_auc(rows: Iterable[Mapping[str, Any]]) -> bool:
  """Whether the AUC of any evaluation is defined."""
  return bool(_aucs(rows))


def read_history(workdir: Path) -> list[dict[str, Any]]:
  """The lines of a run's log; the last one may have been cut by a crash."""
  path = workdir / HISTORY
  rows = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      row = json.loads(line)
      rows.append({k: math.nan if v is None else v for k, v in row.items()})
    except json.JSONDecodeError:
      break
  return rows
