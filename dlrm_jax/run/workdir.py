"""The workdir: ownership of a run's folder.

`config.json` and `data.json` hold the settings and the data that the run was
started with. The same command again continues the run. Another config in the
same folder is refused, unless the kinds of the fields that differ
(`config/kinds.py`) allow them to change: then the run continues with the new
values. Fields without effect do not count. The processes of a job share the
folder; process 0 claims it for all.
"""

import contextlib
import fcntl
import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dlrm_jax import files
from dlrm_jax.cluster import agreement
from dlrm_jax.config.config_file import wrong_fields
from dlrm_jax.config.kinds import Change, FieldKind, changes, completed, of_kind
from dlrm_jax.config.unused import with_effect
from dlrm_jax.errors import InputError

_CONFIG, _DATA = 'config.json', 'data.json'
_OWN = 'tables.features.'  # fields that auto encodings may have set
_VERSION, _FORMAT = 'version', 1
RESULTS = 'results.json'
_MOST = 6  # most differences in a message
_LONG = 120  # most letters of a difference in a message


def _refuse(path: Path, found: Sequence[object], advice: str) -> None:
  """Raises an `InputError` that lists differences, if there are any."""
  if found:
    said = '; '.join(map(str, found[:_MOST]))
    if len(found) > _MOST:
      said += f'; and {len(found) - _MOST} more'
    raise InputError(f'{path.parent} was made by another run: {said}. {advice}')


def _compare_configs(
  path: Path, found: Sequence[Change], config: Mapping[str, Any]
) -> None:
  """Raises an `InputError` if fields of the run's identity differ."""
  other = of_kind(found, FieldKind.IDENTITY)
  if config['train']['plateau']['patience']:
    # Learning rates depend on when validation is scored.
    other += [c for c in found if c.field == 'train.eval_every']
  # Fields of single features may follow from the others (auto encodings).
  given = [change for change in other if not change.field.startswith(_OWN)]
  advice = 'Choose another --workdir, or the settings that it was made with'
  _refuse(path, given or other, advice)


def _compare_data(path: Path, now: Mapping[str, Any]) -> None:
  """Raises an `InputError` if the data differs in a field known then."""
  then = read_object(path)
  found = changes(then, {k: v for k, v in now.items() if k in then})
  short = [str(change) for change in found if len(str(change)) < _LONG]
  _refuse(
    path,
    short or found,
    'The data is another, or was prepared again with other files or options: '
    'choose another --workdir, or the config.data.dir that it was made with',
  )


def _trained(folder: Path) -> int:
  """Steps of the last checkpoint."""
  states = folder.glob('checkpoints/[0-9]*/state')
  names = (path.parent.name for path in states)
  return max((int(name) for name in names if name.isdecimal()), default=0)


def _check_horizon(folder: Path, found: Sequence[Change], steps: int) -> None:
  """Raises an `InputError` if fewer steps are asked for than are trained."""
  trained = _trained(folder)
  if of_kind(found, FieldKind.HORIZON) and steps < trained:
    raise InputError(
      f'{folder} has trained {trained:,} steps, and the config asks for '
      f'{steps:,} (config.train.steps, config.train.epochs); nothing is '
      f'changed: ask for {trained} or more, or choose another --workdir'
    )


def _report(
  folder: Path, found: Sequence[Change], steps: int, patience: int
) -> Iterator[str]:
  """Lines about changed fields that affect the results of the run."""

  def said(some: Sequence[Change]) -> str:
    return '; '.join(map(str, some))

  if horizon := of_kind(found, FieldKind.HORIZON):
    yield f'{folder}: trains to step {steps:,} from now on: {said(horizon)}'
  if moved := of_kind(found, FieldKind.PLACE):
    yield f'{folder}: tables live elsewhere from now on: {said(moved)}'
  evaluates = [c for c in found if c.field == 'train.eval_every']
  if patience and evaluates:
    yield (
      f'{folder}: {said(evaluates)}; train.patience={patience} counts '
      f'evaluations, so it lasts longer or shorter from now on'
    )


def _agree(config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
  """Raises an `InputError` if processes have other settings or data."""
  mine = {'config': config, 'data': data}
  first = json.loads(agreement.text_of_first(json.dumps(mine)))
  found = '; '.join(
    f'{field} is {now!r} here, {then!r} on process 0'
    for field, then, now in changes(first, mine)
  )
  others = [str(k) for k, x in enumerate(agreement.from_all(bool(found))) if x]
  if others:
    raise InputError(
      f'process {", ".join(others)} of this job has another config or other '
      f'data than process 0: {found or "its own message says which"}'
    )


def read_object(path: Path) -> dict[str, Any]:
  """The JSON object in a file of a workdir.

  Raises:
    InputError: the file is absent, cannot be read, or holds something else.
  """
  try:
    value = files.read_json(path)
  except FileNotFoundError:
    if path.name == _DATA and (path.parent / _CONFIG).exists():
      raise InputError(f'{path} is missing; {_mend(path)}') from None
    raise InputError(
      f'{path.parent} is not the workdir of a run: no {path.name} in it'
    ) from None
  except OSError as error:
    raise InputError(f'{path}: cannot be read: {error.strerror}') from None
  except ValueError as error:
    raise InputError(
      f'{path}: damaged: no JSON ({error}); {_mend(path)}'
    ) from None
  if not isinstance(value, dict):
    raise InputError(
      f'{path}: damaged: holds {str(value)[:40]}, expected a JSON object; '
      f'{_mend(path)}'
    )
  return value


def _mend(path: Path) -> str:
  """Advice about a missing or damaged file that a run needs."""
  if any(path.parent.glob('checkpoints/[0-9]*')):
    return 'put back a copy of it, or choose another --workdir'
  return (
    f'nothing is trained there yet: remove {_CONFIG} and {_DATA}, and start '
    f'again'
  )


def _config(path: Path, defaults: Mapping[str, Any]) -> dict[str, Any]:
  """Reads a config and adds the fields that its version did not have."""
  config = read_object(path)
  version = config.pop(_VERSION, 0)
  if version != 0 and version != _FORMAT:
    raise InputError(
      f'{path}: {_VERSION} is {version!r}; this version of dlrm_jax reads '
      f'{_FORMAT} and those before: use the one that wrote it'
    )
  found = completed(config, defaults, path)
  if wrong := next(wrong_fields(found, defaults), None):
    raise InputError(f'{path}: {wrong}')
  return found


def _check_path(folder: Path) -> None:
  """Raises an error if the path of a workdir is a pattern of paths.

  Orbax looks for the files of a checkpoint by such a pattern when it writes
  one, and finds none, or those of another run.

  Raises:
    InputError: a name in the path has `*`, `?` or `[`.
  """
  path = str(folder.absolute())
  if glob.escape(path) != path:
    raise InputError(
      f'workdir {path}: checkpoints cannot be written to a path with *, ? or '
      f'[; choose another --workdir, or rename the folder'
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
  """Creates and locks a folder; raises if another process holds the lock."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / '.lock').open('w')
  except OSError as error:
    raise InputError(
      f'workdir {folder}: {error.strerror}; choose another --workdir'
    ) from None
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      raise InputError(
        f'workdir {folder}: another process is training in it; wait for it, '
        f'or choose another --workdir'
      ) from None
    yield


QUANTIZED = 'quantized.json'
"""Says of what a model was made that only scores."""


class Claim(NamedTuple):
  """The run that a folder is claimed for.

  Attributes:
    config: all settings.
    data: the identity of the data.
    steps: number of steps to train.
    defaults: default of every field, for configs of earlier versions.
  """

  config: Mapping[str, Any]
  data: Mapping[str, Any]
  steps: int
  defaults: Mapping[str, Any]


def started(folder: Path) -> bool:
  """Whether a run has been started in a folder."""
  return (folder / _CONFIG).exists()


def release(folder: Path) -> None:
  """Forgets the settings of a run that cannot begin, so that others may.

  Only where the folder has no checkpoint.
  """
  if agreement.first():
    (folder / _CONFIG).unlink(missing_ok=True)


def _claim(folder: Path, claim: Claim) -> None:
  path = folder / _CONFIG
  written = {_VERSION: _FORMAT, **claim.config}
  if not path.exists():
    if any(folder.glob('checkpoints/[0-9]*')):
      raise InputError(
        f'{folder} has checkpoints but no {_CONFIG} that says how they were '
        f'made; put it back, or choose another --workdir'
      )
    files.write_json(folder / _DATA, claim.data)
    files.write_json(path, written)
    return
  then = _config(path, claim.defaults)
  changed = changes(then, claim.config)
  found = with_effect(changed, then, claim.config, claim.defaults)
  _compare_configs(path, found, claim.config)
  _compare_data(folder / _DATA, claim.data)
  _check_horizon(folder, found, claim.steps)
  patience = claim.config['train']['patience']
  for line in _report(folder, found, claim.steps, patience):
    print(line)
  if of_kind(found, FieldKind.HORIZON):
    # They are results of a shorter run.
    (folder / RESULTS).unlink(missing_ok=True)
  if changed:
    files.write_json(path, written)


@contextlib.contextmanager
def claimed(folder: Path, claim: Claim) -> Iterator[None]:
  """Creates the folder of a run, or checks that it belongs to this run.

  No other job can claim it until this context ends.

  Args:
    folder: the workdir; created if it does not exist.
    claim: the run that it must belong to.

  Raises:
    InputError: the folder cannot be made, another process trains in it, or
      it was made with another config or on other data; or a process of this
      job has another config, other data or another folder. Names the fields
      that differ.
  """
  _check_path(folder)
  if (folder / QUANTIZED).exists():
    raise InputError(
      f'{folder}: python -m dlrm_jax.quantize made this model, which is for '
      f'scoring and has no states of optimizers; train in another --workdir, '
      f'which can begin with its tables (config.train.init_from)'
    )
  _agree(claim.config, claim.data)
  if agreement.first():
    with _locked(folder):
      _claim(folder, claim)
      agreement.from_first(1)  # now the other processes may look
      yield
    return
  agreement.from_first(0)
  if not (folder / _CONFIG).exists():
    raise InputError(
      f'workdir {folder}: process {jax.process_index()} does not see the '
      f'files of process 0 there; it must be one folder that all hosts share'
    )
  yield


def read_settings(
  folder: Path, defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads the config of a run, and the identity of its data.

  Args:
    folder: the workdir.
    defaults: default of every field, for those that the config lacks.

  Raises:
    InputError: the folder is not the workdir of a run.
  """
  return _config(folder / _CONFIG, defaults), read_object(folder / _DATA)
