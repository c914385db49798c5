"""The state of a run before its first step, new or from other runs.

`started_from.json` in the workdir has the step of the checkpoint that was
taken of each other run, by its workdir. It is written before the first step,
so that a run which goes on can tell without the other runs.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import jax

from dlrm_jax import files
from dlrm_jax.checkpoint import transfer
from dlrm_jax.checkpoint.damage import explain_read_errors
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.checkpoint.stored import open_stored
from dlrm_jax.cluster import agreement
from dlrm_jax.embedding.features import Feature
from dlrm_jax.errors import InputError
from dlrm_jax.run.description import Origin, Run
from dlrm_jax.run.workdir import read_object
from dlrm_jax.training.state import TrainState, new_state

_RECORD = 'started_from.json'
_OTHER_IDS = (
  'ids there are of other data; prepare both sets with one vocabulary, or hash '
  'them alike'
)


def first_state(run: Run) -> TrainState:
  """A new state; layers and tables of other runs where the config says so.

  Raises:
    InputError: another run has no checkpoint, or nothing that fits.
  """
  state, steps = new_state(run.task, jax.random.key(run.seed)), {}
  for folder in run.init_from:
    try:
      state, steps[str(folder)] = _with(run, state, folder)
    except InputError as error:
      raise InputError(f'config.train.init_from={folder}: {error}') from None
  if steps and agreement.first():
    files.write_json(run.workdir / _RECORD, steps)
  return state


def started_from(run: Run) -> dict[str, int]:
  """The steps of the checkpoints that a run was started from, by workdir."""
  path = run.workdir / _RECORD
  found = read_object(path) if run.init_from and path.exists() else {}
  folders = map(str, run.init_from)
  return {folder: found[folder] for folder in folders if folder in found}


def origin_lines(run: Run) -> list[str]:
  """A line about each run that gave first layers or tables."""
  return [
    f'started from {folder}, step {step:,}'
    for folder, step in started_from(run).items()
  ]


def _with(run: Run, state: TrainState, folder: Path) -> tuple[TrainState, int]:
  """The state with what a checkpoint of another run has; and its step.

  That is the best one; or the one that this run has been started from before,
  if it was stopped before a checkpoint of its own.
  """
  origin, layout = run.origin(folder), run.task.collection.layout
  checkpoints = Saved(folder / 'checkpoints', layout, origin.objective)
  before = started_from(run).get(str(folder))
  best = before if before in checkpoints.steps else checkpoints.best
  if best is None:
    raise InputError('no checkpoint is there; name a workdir')
  step = agreement.from_first(best)
  path = folder / 'checkpoints' / str(step)
  with explain_read_errors(path, []):
    stored = open_stored(path)
    state, taken = transfer.take(stored, state, layout, _misfits(run, origin))
  if not (taken.layers or taken.tables):
    raise InputError(
      f'nothing in {path} fits the layers and tables of this model, which are '
      f'{", or ".join(taken.left)}'
    )
  if agreement.first():
    print(taken)
  return state, step


def _misfits(run: Run, origin: Origin) -> dict[str, str]:
  """Why rows of tables are those of other ids in another run, by table."""
  details = run.data.details
  if origin.ids != details.get('ids', run.data.fingerprint):
    tables = run.task.collection.tables
    return dict.fromkeys((table.name for table in tables), _OTHER_IDS)
  kinds: Mapping[str, str] = details.get('values', {})
  known = kinds.keys() & origin.kinds.keys()  # older sets did not keep them
  there = _meanings(origin.features, {k: origin.kinds[k] for k in known})
  here = _meanings(run.task.collection.features, {k: kinds[k] for k in known})
  misfits: dict[str, str] = {}
  for table, columns in here.items():
    for column in there.get(table, {}) | columns:
      then = there.get(table, {}).get(column, 'not in this table')
      now = columns.get(column, 'not in this table')
      if then != now:
        misfits.setdefault(table, f'{column} is {then} there, {now} here')
  return misfits


def _meanings(
  features: Iterable[Feature], kinds: Mapping[str, str]
) -> dict[str, dict[str, str]]:
  """What decides where the rows of ids are, by table and column.

  Args:
    features: features with their encodings.
    kinds: kinds of the values of their columns, as far as they are compared.
  """
  meanings: dict[str, dict[str, str]] = {}
  for feature in features:
    column = feature.source
    kind = f', of {kinds[column]} values' if column in kinds else ''
    for table in feature.encoding.tables:
      meaning = f'{feature.encoding.meaning}{kind}'
      meanings.setdefault(table.name, {})[column] = meaning
  return meanings
