"""A folder that appears under its name only when it is complete."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from dlrm_jax.errors import InputError
from dlrm_jax.files import publish

MARK = 'metadata.json'
"""A file in every prepared set: no other folder is ever overwritten."""

_OWN = {MARK, 'dataset_info.json', 'features.json', 'vocabulary'}
_SHARD = re.compile(r'click_log-\w+\.array_record-')


def check_free(target: Path, overwrite: bool) -> None:
  """Raises `InputError` where something is that may not be replaced."""
  if target.is_dir() and not any(target.iterdir()):
    return
  if not target.exists() and not target.is_symlink():
    return
  if not overwrite:
    raise InputError(
      f'{target} exists already; choose another --output, or add --overwrite'
    )
  if not (target / MARK).is_file():
    raise InputError(
      f'{target} is not a prepared set, so --overwrite leaves it alone; '
      'remove it yourself, or choose another --output'
    )
  _check_own(target)


def _check_own(target: Path) -> None:
  """Raises where a set's folder has what is not the set's."""
  for path in target.iterdir():
    if path.name not in _OWN and not _SHARD.match(path.name):
      raise InputError(
        f'{path} is not of the prepared set there, and --overwrite would '
        'remove it; move it away, or choose another --output'
      )


def _remove_stale(target: Path) -> None:
  """Removes what a killed run left; not what a living one is writing."""
  prefix = f'{target.name}.incomplete-'
  for path in target.parent.iterdir():
    pid = path.name.removeprefix(prefix)
    if path.name.startswith(prefix) and pid.isdigit() and not _alive(int(pid)):
      shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
  if pid == os.getpid():
    return False
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    return True
  return True


def _replace(folder: Path, target: Path) -> None:
  old = target.with_name(f'{target.name}.replaced-{os.getpid()}')
  if target.exists():
    target.rename(old)
  publish(folder, target)
  shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def creating(
  output: str | os.PathLike[str], overwrite: bool = False
) -> Iterator[Path]:
  """A temporary folder beside `output` that becomes it when all went well.

  When the body raises, nothing is left; when the process is killed,
  `OUTPUT.incomplete-PID` is, and the next call removes it.

  Raises:
    InputError: output exists (and overwrite is false, or it is something else
      than a prepared set), or cannot be made.
  """
  target = Path(output).absolute()
  folder = target.with_name(f'{target.name}.incomplete-{os.getpid()}')
  try:
    check_free(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    folder.mkdir()
  except OSError as error:
    raise InputError(
      f'{output}: cannot be made here: {error.strerror or error}; '
      'choose another --output'
    ) from None
  try:
    yield folder
    check_free(target, overwrite)  # again: it may have come meanwhile
    _replace(folder, target)
  except OSError as error:
    if error.errno != errno.ENOSPC:
      raise
    raise InputError(f'{output}: no space is left on the device') from None
  finally:
    shutil.rmtree(folder, ignore_errors=True)
