"""Checkpoints: Orbax keeps the state, the last few and the best by AUC.

A checkpoint appears under its number only when it is complete, so a run
killed while it saves resumes from the one before. It remembers the layout of
its tables: where the config has the same, arrays go from Orbax straight to
their devices, however many; where it has another, `moving` takes the rows
there.
"""

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dlrm_jax import agreement, files
from dlrm_jax.embedding.layout import Layout, from_json, to_json
from dlrm_jax.errors import InputError
from dlrm_jax.training.state import TrainState
from dlrm_jax.training.stored import (
  Stored,
  check_fits,
  leaves,
  restore_moved,
)

_STATE, _LAYOUT, _METRICS = 'state', 'layout', 'metrics'
_PIECE = 4 * 2**20  # bytes that are written, and can be read, by themselves
_LEAST = 2**20  # what Orbax takes for too small


def _auc(metrics: Mapping[str, Any]) -> float:
  auc = metrics.get('auc')
  return -1.0 if auc is None or math.isnan(auc) else auc


def _in_pieces(x: jax.Array) -> ocp.SaveArgs:
  """How an array is written: in pieces as near to `_PIECE` as rows divide."""
  rows, *rest = x.sharding.shard_shape(x.shape) or (1,)
  row_bytes = math.prod(rest) * x.dtype.itemsize
  if rows * row_bytes <= _PIECE:
    return ocp.SaveArgs()
  small = [k for k in range(1, math.isqrt(rows) + 1) if rows % k == 0]
  best = min(
    small + [rows // k for k in small],
    key=lambda k: abs(math.log(k * row_bytes / _PIECE)),
  )
  return ocp.SaveArgs(chunk_byte_size=max(best * row_bytes, _LEAST))


@contextlib.contextmanager
def _intact(folder: Path) -> Iterator[None]:
  """What fails within it fails because a checkpoint is damaged."""
  try:
    yield
  except InputError:
    raise
  except (OSError, ValueError, KeyError) as error:
    line = (str(error).strip() or repr(error)).splitlines()[0]
    raise InputError(
      f'{folder}: damaged ({line[:200]}); remove this folder to go on from '
      f'the checkpoint before it'
    ) from error


class Checkpoints:
  """The checkpoints of one run, numbered by step."""

  def __init__(
    self, folder: Path, layout: Layout, keep: int | None = None
  ) -> None:
    """Opens a folder of checkpoints.

    Args:
      folder: made when it is written to and not there.
      layout: of the tables that are saved and wanted.
      keep: the last `keep` are kept beside the best; None opens the folder
        for reading only.
    """
    self._folder = folder
    self._layout = layout
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
      item_handlers={
        _STATE: ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False),
        _LAYOUT: ocp.JsonCheckpointHandler(),
      },
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
      state: all of it; every process writes what it holds.
      metrics: of an evaluation of this very state, if there was one.
    """
    pieces = jax.tree.map(_in_pieces, state)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        **{
          _STATE: ocp.args.PyTreeSave(state, pieces),
          _LAYOUT: ocp.args.JsonSave(to_json(self._layout)),
        }
      ),
      metrics=None if metrics is None else dict(metrics),
      force=True,
    )

  def add_scores(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds metrics to a complete checkpoint that was saved without any.

    Args:
      step: which.
      metrics: of an evaluation of this very state.
    """
    there = self._folder / str(step) / _METRICS
    if agreement.first() and not there.exists():
      # As Orbax's handler of JSON has it: a file in a folder of that name.
      with tempfile.TemporaryDirectory(dir=self._folder / str(step)) as work:
        folder = Path(work) / _METRICS
        folder.mkdir()
        (folder / _METRICS).write_text(files.to_json(metrics))
        files.publish(folder, there)
    agreement.from_first(step)  # the others look when it is there
    self._manager.reload()

  def restore(self, step: int, abstract: TrainState) -> TrainState:
    """Reads a checkpoint, whatever layout and devices it was written with.

    Args:
      step: which.
      abstract: shapes, dtypes and shardings of the state wanted. A field
        that is None is not read.

    Raises:
      InputError: there is no such checkpoint, or its arrays have other
        shapes than the config and the data ask for.
    """
    if step not in self.steps:
      there = ', '.join(map(str, self.steps)) or 'none'
      raise InputError(
        f'{self._folder}: no checkpoint of step {step}; there are: {there}'
      )
    here = self._folder / str(step)
    with _intact(here):
      stored = self._stored(step)
    check_fits(stored, abstract, self._layout)
    with _intact(here):
      if stored.layout == self._layout:
        return self._restore_directly(step, abstract)
      print(f'{here}: tables are laid out anew, as the config says')
      return restore_moved(stored, abstract, self._layout)

  def restore_for_evaluation(
    self, step: int, abstract: TrainState
  ) -> TrainState:
    """Reads a checkpoint without the state of its optimizers: None instead."""
    return self.restore(
      step, dataclasses.replace(abstract, opt_state=None, table_state=None)
    )

  def _stored(self, step: int) -> Stored:
    here = self._folder / str(step)
    if not (here / _LAYOUT).exists():
      raise InputError(
        f'{here}: written by an earlier version of dlrm_jax, which kept no '
        f'layout of its tables; use that version, or train anew'
      )
    read = ocp.args.Composite(**{_LAYOUT: ocp.args.JsonRestore()})
    return Stored(
      here / _STATE,
      leaves(self._manager.item_metadata(step)[_STATE]),
      from_json(self._manager.restore(step, args=read)[_LAYOUT]),
    )

  def _restore_directly(self, step: int, abstract: TrainState) -> TrainState:
    wanted = {k: v for k, v in vars(abstract).items() if v is not None}
    read = ocp.args.PyTreeRestore(
      wanted,
      restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
      partial_restore=True,
    )
    restored = self._manager.restore(
      step, args=ocp.args.Composite(**{_STATE: read})
    )[_STATE]
    # Through an identity, since restored buffers can't always be donated.
    restored = jax.jit(lambda x: x, donate_argnums=0)(restored)
    return dataclasses.replace(abstract, **restored)

  def wait(self) -> None:
    """Returns when everything is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and ends the manager's threads."""
    self.wait()
    self._manager.close()
