"""The work folder of `prepare`: `OUTPUT.unfinished`.

A killed run leaves its finished units there, and the same command continues.
A lock keeps other runs out. A plan has everything that determines the result.
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
from dlrm_jax.files import (
  check_place,
  publish,
  read_json,
  write_bytes,
  write_json,
)

_PLAN = 'plan.json'
_SET = 'set'
_OLD = 'replaced'
_OPTIONS = 'options'


LAYOUT = 3
"""Version of the layout of the folder, which plans name."""


def _target_of(output: str) -> Path:
  target = Path(os.path.abspath(output))
  if not output or not target.name:
    raise InputError(f'--output={output}: expected a folder to make')
  return target


def folder_of(output: str) -> Path:
  """The work folder of an output."""
  target = _target_of(output)
  return target.with_name(f'{target.name}.unfinished')


def check_output(output: str, overwrite: bool) -> None:
  """Checks that a set can be written, before anything is read.

  Args:
    output: folder of the set.
    overwrite: whether to replace a prepared set.

  Raises:
    InputError: the folder holds something else, or cannot be created.
  """
  target = _target_of(output)
  if target.is_mount():
    raise InputError(
      f'{output}: a file system is mounted here, which a set cannot replace; '
      f'choose a folder in it, such as --output={os.path.join(output, "set")}'
    )
  if not folder_of(output).exists():  # A killed run may have written the set.
    check_free(target, overwrite)
  check_place(target, f'--output={output}')


@contextlib.contextmanager
def unfinished(
  output: str, plan: Mapping[str, Any], overwrite: bool
) -> Iterator[Path | None]:
  """The locked work folder, with the units that an equal plan has finished.

  The body writes the set to the folder `set` in it, which becomes `output`
  after the body.

  Args:
    output: folder of the set.
    plan: everything that determines the result, as a JSON value.
    overwrite: whether to replace a prepared set, and work of another plan.

  Yields:
    The folder; None if a killed run had finished the set.

  Raises:
    InputError: the output exists already, another run holds the lock, or the
      folder has work of another plan.
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
      if not any(work.glob('spool/*.json')):  # Nothing is worth keeping.
        shutil.rmtree(work)
      raise
    _publish_set(work, target)


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
  """Whether the set is at its place, and only this folder remains."""
  return (
    not (work / _SET).exists()
    and (work / 'done').exists()
    and target.exists()
    and _plan_of(work) == plan
  )


def _plan_of(work: Path) -> Any:
  """The plan in a work folder; None if it is missing or damaged."""
  try:
    return read_json(work / _PLAN)
  except (OSError, ValueError):
    return None


def _begin(work: Path, plan: Mapping[str, Any], overwrite: bool) -> None:
  """Keeps the units of an equal plan, and removes those of another one."""
  before = _plan_of(work)
  if before is None:  # The folder was being removed, or is damaged.
    _clear(work, {'lock'})
    before = plan
  if before.get('layout') != plan.get('layout') and not overwrite:
    raise InputError(
      f'{work} has unfinished work of another version of dlrm_jax; go on with '
      'that version, or add --overwrite to begin anew'
    )
  names = [name for name in plan if plan[name] != before.get(name)]
  if names == [_OPTIONS] and not (work / 'mixed').exists():
    _clear(work, {'spool', 'lock'})  # Options do not change the spool.
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
  """At most three differences between plans, in words."""
  if isinstance(before, dict) and isinstance(now, dict):
    differences = []
    for key in now:
      differences += _differences(before.get(key), now[key], key)
    return differences[:3]
  if before == now:
    return []
  return [f'{name}: {str(before)[:80]} there, {str(now)[:80]} now']


def _publish_set(work: Path, target: Path) -> None:
  """Moves the set to its place; may be killed at any moment, and run again."""
  write_bytes(work / 'done', b'')
  if target.exists():
    shutil.rmtree(work / _OLD, ignore_errors=True)
    target.rename(work / _OLD)
  publish(work / _SET, target)
  _remove(work)


def _remove(work: Path) -> None:
  """Removes a work folder; the marks that the set is finished go last."""
  _clear(work, {'lock', 'done', _PLAN})
  shutil.rmtree(work)
