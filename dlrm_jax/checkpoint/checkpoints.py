"""Checkpoints: the state as Orbax writes it, the last few and the best.

A checkpoint is a folder named by its step, and has that name only when it is
complete, so a run killed while it saves resumes from the one before. It
remembers the layout of its tables and checksums of all that is in it.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dlrm_jax import files
from dlrm_jax.checkpoint import checksums
from dlrm_jax.checkpoint.damage import Damaged, reading, writing
from dlrm_jax.checkpoint.fits import leaves
from dlrm_jax.checkpoint.stored import (
  CHECKSUMS,
  LAYOUT,
  METRICS,
  STATE,
  checksum_of,
  open_stored,
  read_metrics,
  restore,
  with_checksum,
)
from dlrm_jax.cluster import agreement
from dlrm_jax.embedding.layout import Layout, to_json
from dlrm_jax.errors import InputError
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.training.state import TrainState

_AUC = Objective('auc', higher=True)
_LEAST = 2**20  # bytes of a piece; what Orbax takes for too small
_UNFINISHED = '.orbax-checkpoint-tmp'  # Orbax has it in names of such folders
_REMOVED = '.removed'  # ends the name of what is about to be deleted


def _in_pieces(x: jax.Array) -> ocp.SaveArgs:
  """How an array is written: in pieces as near to `PIECE` as rows divide."""
  if x.ndim == 0 or x.nbytes <= checksums.PIECE:
    return ocp.SaveArgs()
  row_bytes = x.nbytes // x.shape[0]
  return ocp.SaveArgs(
    chunk_byte_size=max(checksums.piece_rows(x) * row_bytes, _LEAST)
  )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
  return {k: v for k, v in metrics.items() if math.isfinite(v)}


class _Repeated(logging.Filter):
  """Leaves out what Orbax logs of errors: `wait` raises them, too."""

  def filter(self, record: logging.LogRecord) -> bool:
    return f'{os.sep}orbax{os.sep}' not in record.pathname


class Checkpoints:
  """The checkpoints of one run, numbered by step."""

  def __init__(
    self,
    folder: Path,
    layout: Layout,
    keep: int | None = None,
    objective: Objective = _AUC,
  ) -> None:
    """Opens a folder of checkpoints.

    Args:
      folder: made when it is written to and not there.
      layout: of the tables that are saved and wanted.
      keep: the last `keep` are kept beside the best; None opens the folder
        for reading only: nothing in it is changed.
      objective: the metric that decides which checkpoint is the best.
    """
    self._objective = objective
    self._folder = folder
    self._layout = layout
    self._keep = keep
    self._told: set[str] = set()
    self._filter = _Repeated()
    self._saving: int | None = None
    self._writer: ocp.AsyncCheckpointer | None = None
    if keep is None:
      return
    with writing(folder, 'choose another --workdir'):
      folder.mkdir(parents=True, exist_ok=True)
      self._clean()
    logging.getLogger('absl').addFilter(self._filter)
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
        # Else who writes into a folder that can't be made waits for minutes.
        create_directories_asynchronously=False,
      ),
    )

  def _clean(self) -> None:
    """Removes what a killed run left unfinished."""
    if agreement.first():
      for path in self._folder.iterdir():
        if _UNFINISHED in path.name or path.suffix == _REMOVED:
          shutil.rmtree(path, ignore_errors=True)

  def _say(self, text: str) -> None:
    """Prints a line once."""
    if text not in self._told:
      self._told.add(text)
      print(text)

  @property
  def steps(self) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    found = []
    try:
      names = [path.name for path in self._folder.iterdir()]
      for name in names:
        if not name.isdecimal() or str(int(name)) != name:
          continue
        path = self._folder / name
        if (path / STATE).is_dir():
          found.append(int(name))
        elif path.exists():
          self._say(f'{path}: not a checkpoint, it has no {STATE}; passed over')
    except (FileNotFoundError, NotADirectoryError):
      return []
    except OSError as error:
      raise InputError(
        f'{error.filename}: can not be read: {error.strerror}'
      ) from None
    return sorted(found)

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

  def save(
    self, step: int, state: TrainState, metrics: Mapping[str, float]
  ) -> None:
    """Starts to save and returns: the state is copied, then written.

    Args:
      step: updates made.
      state: all of it; every process writes what it holds.
      metrics: scores of an evaluation of this state, {} if there was none.
        Those that are not finite are left out; without a finite objective
        the checkpoint can't be the best.
    """
    assert self._writer is not None, 'opened for reading only'
    self.wait()
    layout = json.loads(json.dumps(to_json(self._layout)))
    sums = checksums.sums_of(leaves(state))
    noted = {'arrays': checksums.to_json(sums), LAYOUT: checksum_of(layout)}
    items: dict[str, Any] = {
      STATE: ocp.args.PyTreeSave(state, jax.tree.map(_in_pieces, state)),
      LAYOUT: ocp.args.JsonSave(layout),
      CHECKSUMS: ocp.args.JsonSave(noted),
    }
    if known := _finite(metrics):
      items[METRICS] = ocp.args.JsonSave(with_checksum(known))
    here = (self._folder / str(step)).absolute()
    self._saving = step
    with self._writing():
      self._make_room(here)
      self._writer.save(here, ocp.args.Composite(**items))

  def add_scores(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds metrics to a complete checkpoint that was saved without any.

    Args:
      step: which.
      metrics: of an evaluation of this very state.
    """
    here, known = self._folder / str(step), _finite(metrics)
    if agreement.first() and known and not (here / METRICS).exists():
      self._saving = step
      with self._writing(), tempfile.TemporaryDirectory(dir=here) as work:
        folder = Path(work) / METRICS
        folder.mkdir()
        files.write_json(folder / METRICS, with_checksum(known))
        files.publish(folder, here / METRICS)
      self._saving = None
    agreement.from_first(step)  # the others look when it is there

  def _writing(self) -> contextlib.AbstractContextManager[None]:
    """What fails within it leaves the last complete checkpoint."""
    last = self.latest
    start = 'from the start' if last is None else f'from step {last}'
    return writing(
      self._folder / str(self._saving),
      f'when that is mended, the same command goes on {start}',
    )

  def _make_room(self, here: Path) -> None:
    """Moves away what has the name of a checkpoint and is none."""
    if agreement.first() and here.exists():
      aside = files.unfinished_name(here)
      here.rename(aside)
      self._say(f'{here}: in the way of a checkpoint, now {aside.name}')

  def _sync(self) -> None:
    """Makes a checkpoint safe from a loss of power, before it has its name."""
    for folder in self._folder.glob(f'*{_UNFINISHED}*'):
      files.sync_all(folder)

  def _prune(self) -> None:
    """Removes all but the last ones, the best, and those not readable."""
    if self._keep is None or not agreement.first():
      return
    steps = self.steps
    kept = {*steps[-self._keep :], self.best}
    for step in steps:
      if step not in kept and self._gain(step) != math.inf:
        removed = self._folder / f'{step}{_REMOVED}'
        (self._folder / str(step)).rename(removed)
        shutil.rmtree(removed, ignore_errors=True)

  def restore(self, step: int, abstract: TrainState) -> TrainState:
    """Reads a checkpoint, whatever layout and devices it was written with.

    Args:
      step: which.
      abstract: shapes, dtypes and shardings of the state wanted. A field
        that is None is not read.

    Raises:
      InputError: there is no such checkpoint, it can't be read or is damaged,
        or its arrays are others than the config and the data ask for.
    """
    steps = self.steps
    if step not in steps:
      there = ', '.join(map(str, steps)) or 'none'
      raise InputError(
        f'{self._folder}: no checkpoint of step {step}; there are: {there}'
      )
    here = self._folder / str(step)
    with reading(here, [other for other in steps if other != step]):
      return restore(open_stored(here), abstract, self._layout)

  def restore_for_evaluation(
    self, step: int, abstract: TrainState
  ) -> TrainState:
    """Reads a checkpoint without the state of its optimizers: None instead."""
    return self.restore(
      step, dataclasses.replace(abstract, opt_state=None, table_state=None)
    )

  def wait(self) -> None:
    """Returns when everything is on disk.

    Raises:
      InputError: a checkpoint could not be written.
    """
    if self._writer is not None and self._saving is not None:
      with self._writing():
        self._writer.wait_until_finished()
        files.sync(self._folder)
        self._prune()
      self._saving = None

  def close(self) -> None:
    """Waits, and ends the threads of the writer."""
    if self._writer is None:
      return
    try:
      self.wait()
    finally:
      with contextlib.suppress(Exception):  # told by `wait`
        self._writer.close()
      logging.getLogger('absl').removeFilter(self._filter)
