"""Checkpoints: the state as Orbax writes it, the last few and the best.

A checkpoint is a folder named by its step, and has that name only when it is
complete, so a run killed while it saves resumes from the checkpoint before.
It contains the layout of its tables and checksums of all its files.
"""

import contextlib
import functools
import json
import logging
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dlrm_jax import files
from dlrm_jax.checkpoint import checksums
from dlrm_jax.checkpoint.damage import explain_write_errors
from dlrm_jax.checkpoint.fits import leaves
from dlrm_jax.checkpoint.saved import AUC, Saved
from dlrm_jax.checkpoint.stored import (
  CHECKSUMS,
  LAYOUT,
  METRICS,
  STATE,
  checksum_of,
  with_checksum,
)
from dlrm_jax.cluster import agreement
from dlrm_jax.embedding.layout import Layout, layout_to_json
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.training.state import TrainState

_LEAST = 2**20  # bytes of a piece, at least; Orbax refuses smaller ones
_FILE = 2**26  # bytes of a file; so many wait in memory to be written
_UNFINISHED = '.orbax-checkpoint-tmp'  # in Orbax's names of such folders
_REMOVED = '.removed'  # suffix of a checkpoint that is being deleted


def _in_pieces(x: jax.Array) -> ocp.SaveArgs:
  """Makes Orbax write an array in pieces of equal rows, of about `PIECE`."""
  if x.ndim == 0 or x.nbytes <= checksums.PIECE:
    return ocp.SaveArgs()
  row_bytes = x.nbytes // x.shape[0]
  return ocp.SaveArgs(
    chunk_byte_size=max(checksums.piece_rows(x) * row_bytes, _LEAST)
  )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
  return {k: v for k, v in metrics.items() if math.isfinite(v)}


class _Repeated(logging.Filter):
  """Drops log messages of Orbax about errors, which `wait` raises anyway."""

  def filter(self, record: logging.LogRecord) -> bool:
    return f'{os.sep}orbax{os.sep}' not in record.pathname


@functools.cache
def _drop_late_results() -> None:
  """Drops tracebacks of TensorStore's writes that end after a failed save.

  Orbax closes its event loop at the first error, and every write that ends
  later prints that the loop is closed. `wait` raises the error itself. The
  writes may outlast the checkpoints, so this stays for the whole process.
  """
  previous = sys.unraisablehook

  def hook(event: Any) -> None:
    if str(event.exc_value) != 'Event loop is closed':
      previous(event)

  sys.unraisablehook = hook


class Checkpoints(Saved):
  """The checkpoints of one run, which also writes them."""

  def __init__(
    self,
    folder: Path,
    layout: Layout,
    keep: int,
    objective: Objective = AUC,
  ) -> None:
    """Opens a folder of checkpoints for writing.

    Args:
      folder: folder of the checkpoints; made if it is absent.
      layout: layout of the tables that are saved and wanted.
      keep: number of last checkpoints to keep beside the best.
      objective: the metric that decides which checkpoint is the best.
    """
    super().__init__(folder, layout, objective)
    self._keep = keep
    self._filter = _Repeated()
    self._saving: int | None = None
    with explain_write_errors(folder, 'choose another --workdir'):
      folder.mkdir(parents=True, exist_ok=True)
      self._clean()
    logging.getLogger('absl').addFilter(self._filter)
    _drop_late_results()
    handlers: dict[str, Any] = {
      STATE: ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False),
      LAYOUT: ocp.JsonCheckpointHandler(),
      CHECKSUMS: ocp.JsonCheckpointHandler(),
      METRICS: ocp.JsonCheckpointHandler(filename='metrics'),
    }
    self._writer = ocp.AsyncCheckpointer(
      ocp.CompositeCheckpointHandler(**handlers),
      async_options=ocp.AsyncOptions(
        post_finalization_callback=self._sync,
        # Otherwise an error of making a folder appears only minutes later.
        create_directories_asynchronously=False,
      ),
    )

  def _clean(self) -> None:
    """Removes unfinished checkpoints of a killed run."""
    if agreement.first():
      for path in self._folder.iterdir():
        if _UNFINISHED in path.name or path.suffix == _REMOVED:
          shutil.rmtree(path, ignore_errors=True)

  def save(
    self, step: int, state: TrainState, metrics: Mapping[str, float]
  ) -> None:
    """Starts to save and returns: the state is copied, then written.

    Args:
      step: number of updates so far.
      state: the whole state; every process writes its part.
      metrics: metrics of this state, {} if it was not evaluated. Those that
        are not finite are left out; without a finite objective the checkpoint
        cannot be the best.
    """
    self.wait()
    layout = json.loads(json.dumps(layout_to_json(self._layout)))
    sums = checksums.sums_of(leaves(state))
    noted = {
      'arrays': checksums.sums_to_json(sums),
      LAYOUT: checksum_of(layout),
    }
    items: dict[str, Any] = {
      STATE: ocp.args.PyTreeSave(
        state,
        jax.tree.map(_in_pieces, state),
        ocdbt_target_data_file_size=_FILE,
      ),
      LAYOUT: ocp.args.JsonSave(layout),
      CHECKSUMS: ocp.args.JsonSave(noted),
    }
    if known := _finite(metrics):
      items[METRICS] = ocp.args.JsonSave(with_checksum(known))
    path = (self._folder / str(step)).absolute()
    self._saving = step
    with self._writing():
      self._make_room(path)
      self._writer.save(path, ocp.args.Composite(**items))

  def add_scores(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds metrics to a complete checkpoint that was saved without any.

    Args:
      step: step of the checkpoint.
      metrics: metrics of its state.
    """
    path, known = self._folder / str(step), _finite(metrics)
    if agreement.first() and known and not (path / METRICS).exists():
      self._saving = step
      with self._writing(), tempfile.TemporaryDirectory(dir=path) as work:
        folder = Path(work) / METRICS
        folder.mkdir()
        files.write_json(folder / METRICS, with_checksum(known))
        files.publish(folder, path / METRICS)
      self._saving = None
    agreement.from_first(step)  # the others go on once it is written

  def _writing(self) -> contextlib.AbstractContextManager[None]:
    """Context of writing: an error leaves the last complete checkpoint."""
    last = self.latest
    start = 'from the start' if last is None else f'from step {last}'
    return explain_write_errors(
      self._folder / str(self._saving),
      f'when that is mended, the same command goes on {start}',
    )

  def _make_room(self, path: Path) -> None:
    """Moves away a folder or file that has the name of the checkpoint."""
    if agreement.first() and path.exists():
      aside = files.unfinished_name(path)
      path.rename(aside)
      self._say(f'{path}: in the way of a checkpoint, now {aside.name}')

  def _sync(self) -> None:
    """Syncs a checkpoint to disk before it gets its final name."""
    for folder in self._folder.glob(f'*{_UNFINISHED}*'):
      files.sync_all(folder)

  def _prune(self) -> None:
    """Removes all but the last, the best, and the unreadable checkpoints."""
    if not agreement.first():
      return
    steps = self.steps
    kept = {*steps[-self._keep :], self.best}
    for step in steps:
      if step not in kept and self._gain(step) != math.inf:
        removed = self._folder / f'{step}{_REMOVED}'
        (self._folder / str(step)).rename(removed)
        shutil.rmtree(removed, ignore_errors=True)

  def wait(self) -> None:
    """Waits until the checkpoint is on disk.

    Raises:
      InputError: a checkpoint could not be written.
    """
    if self._saving is not None:
      with self._writing():
        self._writer.wait_until_finished()
        files.sync(self._folder)
        self._prune()
      self._saving = None

  def close(self) -> None:
    """Waits, and ends the threads of the writer."""
    try:
      self.wait()
    finally:
      with contextlib.suppress(Exception):  # `wait` raised it
        self._writer.close()
      logging.getLogger('absl').removeFilter(self._filter)
