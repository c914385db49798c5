"""The state of a run before its first step, new or from other runs."""

from pathlib import Path

import jax

from dlrm_jax.checkpoint import transfer
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.checkpoint.damage import explain_read_errors
from dlrm_jax.checkpoint.stored import open_stored
from dlrm_jax.cluster import agreement
from dlrm_jax.errors import InputError
from dlrm_jax.run.description import Run
from dlrm_jax.run.workdir import ids_of, objective_of
from dlrm_jax.training.state import TrainState, new_state


def first_state(run: Run) -> TrainState:
  """A new state; layers and tables of other runs where the config says so.

  Raises:
    InputError: another run has no checkpoint, or nothing that fits.
  """
  state = new_state(run.task, jax.random.key(run.seed))
  for folder in run.init_from:
    state = _with(run, state, folder)
  return state


def _with(run: Run, state: TrainState, folder: Path) -> TrainState:
  """The state with what the best checkpoint of another run has."""
  where = f'config.train.init_from={folder}'
  same = ids_of(folder) == run.data.details.get('ids', run.data.fingerprint)
  layout = run.task.collection.layout
  checkpoints = Checkpoints(
    folder / 'checkpoints', layout, None, objective_of(folder)
  )
  best = checkpoints.best
  if best is None:
    raise InputError(f'{where}: no checkpoint is there; name a workdir')
  path = folder / 'checkpoints' / str(agreement.from_first(best))
  with explain_read_errors(path, []):
    stored = open_stored(path, layout)
    state, taken = transfer.take(stored, state, layout, with_tables=same)
  if not (taken.layers or taken.tables):
    raise InputError(
      f'{where}: nothing in {path} has the name and shape of a layer or table '
      f'of this model'
    )
  if agreement.first():
    print(taken)
    if not same:
      print(
        f'{where}: tables were not taken, as its ids are of other data; '
        f'prepare both sets with one vocabulary, or hash them alike'
      )
  return state
