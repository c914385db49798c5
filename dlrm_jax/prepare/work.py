"""The folder of an unfinished prepare: `OUTPUT.unfinished`.

What is done stays in it when a run is killed, and the same command goes on. A
lock keeps a second run out; a plan says what the work is for.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dlrm_jax.data.folder import check_free
from dlrm_jax.errors import InputError
from dlrm_jax.files import publish, read_json, write_bytes, write_json

_PLAN = 'plan.json'
_SET = 'set'
_OLD = 'replaced'
_OPTIONS = 'options'


LAYOUT = 2
"""Version of what lies in the folder; plans say it."""


def _target_of(output: str) -> Path:
  target = Path(os.path.abspath(output))
  if not output or not target.name:
    raise InputError(f'--output={output}: expected a folder to make')
  return target


def folder_of(output: str) -> Path:
  """Where the work for an output is."""
  target = _target_of(output)
  return target.with_name(f'{target.name}.unfinished')


def check_output(output: str, overwrite: bool) -> None:
  """Looks whether a set can be made, before anything is read or made.

  Args:
    output: the folder to make.
    overwrite: replace a set that is there.

  Raises:
    InputError: something else is there, or nothing can be made there.
  """
  target = _target_of(output)
  if target.is_mount():
    raise InputError(
      f'{output}: a file system is mounted here, which a set cannot replace; '
      f'choose a folder in it, such as --output={os.path.join(output, "set")}'
    )
  if not folder_of(output).exists():  # else a killed run may have made it
    check_free(target, overwrite)
  there = next(path for path in target.parents if os.path.lexists(path))
  if not there.is_dir():
    raise InputError(
      f'{output}: cannot be made here: {there} is not a folder; choose another '
      '--output'
    )
  if not os.access(there, os.W_OK | os.X_OK):
    raise InputError(
      f'{output}: cannot be made here: {there} may not be written to; choose '
      'another --output'
    )


@contextlib.contextmanager
def unfinished(
  output: str, plan: Mapping[str, Any], overwrite: bool
) -> Iterator[Path | None]:
  """The folder to work in, locked; what an equal plan has done is there.

  The body makes the set in the folder `set` within, which then becomes
  `output`. Yields None where a run that was killed at its very end has
  nothing left to do.

  Args:
    output: the folder to make.
    plan: all that the result depends on, as JSON can hold it.
    overwrite: replace a set that is there, forget work of another plan.

  Raises:
    InputError: output is there already, another run is at work, or work of
      another plan is there.
  """
  target = _target_of(output)
  work = folder_of(output)
  check_output(output, overwrite)
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    names = {path.name for path in work.iterdir()}
    if names and not names & {'lock', 'done', _PLAN}:
      raise InputError(
        f'{work} is no unfinished work of prepare; remove it yourself, or '
        'choose another --output'
      )
  except OSError as error:
    raise InputError(
      f'{output}: cannot be made here: {error.strerror or error}; choose '
      'another --output'
    ) from None
  with _locked(work):
    if _finished(work, target, plan):
      _remove(work)
      yield None
      return
    check_free(target, overwrite)
    _begin(work, plan, overwrite)
    try:
      yield work
    except BaseException:
      if not any(work.glob('spool/*.json')):  # nothing to go on with
        shutil.rmtree(work)
      raise
    _put(work, target)


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
  descriptor = os.open(work / 'lock', os.O_RDWR | os.O_CREAT)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  except BlockingIOError:
    raise InputError(
      f'{work}: another run is at work here; wait for it, or choose another '
      '--output'
    ) from None
  finally:
    os.close(descriptor)


def _finished(work: Path, target: Path, plan: Mapping[str, Any]) -> bool:
  """Whether only the removal of the folder is missing."""
  return (
    not (work / _SET).exists()
    and (work / 'done').exists()
    and target.exists()
    and _plan_of(work) == plan
  )


def _plan_of(work: Path) -> Any:
  """What the work is for; None where that is not known."""
  try:
    return read_json(work / _PLAN)
  except (OSError, ValueError):
    return None


def _begin(work: Path, plan: Mapping[str, Any], overwrite: bool) -> None:
  before = _plan_of(work)
  if before is None:  # it was about to be removed, or is damaged
    _clear(work, {'lock'})
    before = plan
  if before.get('layout') != plan.get('layout') and not overwrite:
    raise InputError(
      f'{work} has unfinished work of another version of dlrm_jax; go on with '
      'that version, or add --overwrite to begin anew'
    )
  names = [name for name in plan if plan[name] != before.get(name)]
  if names == [_OPTIONS] and not (work / 'mixed').exists():
    _clear(work, {'spool', 'lock'})  # what is parsed is the same
  elif names and not overwrite:
    raise InputError(
      f'{work} has unfinished work with other {", ".join(names)} '
      f'({"; ".join(_differences(before, plan))}); give the same to go on, or '
      'add --overwrite to begin anew'
    )
  elif names:
    _clear(work, {'lock'})
  write_json(work / _PLAN, plan)
  (work / _SET).mkdir(exist_ok=True)


def _clear(work: Path, keep: set[str]) -> None:
  for path in work.iterdir():
    if path.name in keep:
      continue
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink()


def _differences(before: Any, now: Any, name: str = '') -> list[str]:
  """What differs, at most three of it."""
  if isinstance(before, dict) and isinstance(now, dict):
    found = []
    for key in now:
      found += _differences(before.get(key), now[key], key)
    return found[:3]
  if before == now:
    return []
  there, here = (str(value)[:80] for value in (before, now))
  return [f'{name}: {there} there, {here} now']


def _put(work: Path, target: Path) -> None:
  """Gives the set its name. Killed at any moment, it is done again."""
  write_bytes(work / 'done', b'')
  if target.exists():
    shutil.rmtree(work / _OLD, ignore_errors=True)
    target.rename(work / _OLD)
  publish(work / _SET, target)
  _remove(work)


def _remove(work: Path) -> None:
  """Removes the folder; what says that it is done comes last."""
  _clear(work, {'lock', 'done', _PLAN})
  shutil.rmtree(work)
