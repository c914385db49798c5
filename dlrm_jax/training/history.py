"""The log of a run: one JSON line a report, readable while it runs.

Lines of training hold `step`, `loss`, `examples_per_second`; lines of
evaluations `step` and `SPLIT/METRIC`. A resumed run forgets what was logged
after its checkpoint; its evaluations are those of a run that never stopped.
Of the processes of a job the first one writes.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from dlrm_jax import agreement
from dlrm_jax.training.workdir import to_json, write_text

_NAME = 'metrics.jsonl'
_AUC = 'validation/auc'


class History:
  """Writes `metrics.jsonl` and TensorBoard's event files side by side."""

  def __init__(self, workdir: Path, step: int) -> None:
    """Opens the log of a run that goes on after `step`."""
    self._path = workdir / _NAME
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
    row = {'step': step, **values}
    self.rows.append(row)
    if self._writer is None:
      return
    with self._path.open('a') as file:
      file.write(to_json(row) + '\n')
      file.flush()
      os.fsync(file.fileno())
    for name, value in values.items():
      self._writer.add_scalar(name, value, step)

  def should_stop(self, patience: int) -> bool:
    """Whether the last `patience` evaluations brought no better AUC."""
    aucs = [row[_AUC] for row in self.rows if _AUC in row]
    aucs = [-1.0 if math.isnan(auc) else auc for auc in aucs]
    return 0 < patience < len(aucs) and (
      max(aucs[-patience:]) <= max(aucs[:-patience])
    )

  def close(self) -> None:
    """Flushes TensorBoard's files."""
    if self._writer is not None:
      self._writer.close()


def read_history(workdir: Path) -> list[dict[str, Any]]:
  """The lines of a run's log; the last one may have been cut by a crash."""
  path = workdir / _NAME
  rows = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      row = json.loads(line)
      rows.append({k: math.nan if v is None else v for k, v in row.items()})
    except json.JSONDecodeError:
      break
  return rows
