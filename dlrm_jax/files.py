"""Files that exist whole or not at all, even after a loss of power.

A file is written under a temporary name and synced; then it is renamed and its
folder is synced. So a file that has its final name has its whole content.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from dlrm_jax.errors import InputError


def unfinished_name(path: Path) -> Path:
  """A temporary path beside `path` that no other process on any host uses."""
  return path.with_name(f'{path.name}.{uuid.uuid4().hex[:12]}')


_UNFINISHED = re.compile(r'\.[0-9a-f]{12}$')


def remove_unfinished(folder: Path) -> None:
  """Removes temporary files of killed processes from a folder and its folders.

  Workers of a killed process may live a moment longer; what they still write
  is lost.
  """
  for parent, folders, names in os.walk(folder, topdown=False):
    for name in filter(_UNFINISHED.search, [*folders, *names]):
      _remove(Path(parent) / name)


def _remove(path: Path) -> None:
  if path.is_dir():
    shutil.rmtree(path, ignore_errors=True)
  else:
    path.unlink(missing_ok=True)


def sync(path: Path) -> None:
  """Waits until a file, or the list of names in a folder, is on the disk."""
  number = os.open(path, os.O_RDONLY)
  try:
    os.fsync(number)
  finally:
    os.close(number)


def sync_all(folder: Path) -> None:
  """Waits until a folder and everything in it is on the disk."""
  for parent, _, names in os.walk(folder):
    for name in names:
      sync(Path(parent) / name)
    sync(Path(parent))


def publish(work: Path, path: Path, synced: bool = True) -> None:
  """Renames a finished file or folder, so that it survives a crash.

  Args:
    work: the finished file or folder under its temporary name.
    path: the final name. A file replaces an older file of this name; a folder
      replaces nothing.
    synced: whether to wait for the disk, which takes longer than writing a
      small file. False is for files whose readers compare their size, and can
      write them again if a loss of power has cut them.
  """
  if not synced:
    work.replace(path)
    return
  if work.is_dir():
    sync_all(work)
  else:
    sync(work)
  work.replace(path)
  sync(path.parent)


@contextlib.contextmanager
def replacing(path: Path, synced: bool = True) -> Iterator[Path]:
  """Yields a temporary path; publishes it as `path`, or removes it on error."""
  work = unfinished_name(path)
  try:
    yield work
    publish(work, path, synced)
  except BaseException:
    work.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
  """Turns errors of the system within the body into one-line messages.

  Raises:
    InputError: the disk is full, a permission is missing, or the like.
  """
  try:
    yield
  except OSError as error:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = '; make room, and the same command goes on' if full else ''
    raise InputError(
      f'{path}: cannot be written: {error.strerror or error}{advice}'
    ) from error


_LOCK = '.lock'
"""Name of the file in a temporary folder that its process keeps locked."""


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
  """Yields a temporary folder beside a path that the body makes and publishes.

  What the body leaves in the folder is removed with it. So are the temporary
  folders that killed processes left beside the same path. Those of processes
  that still run are locked and stay.

  Raises:
    InputError: the disk is full, a permission is missing, or the like.
  """
  path = path.absolute()
  with writing(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    work, lock = _locked_folder(path)
    with lock:
      try:
        yield work
      finally:
        shutil.rmtree(work, ignore_errors=True)


def _locked_folder(path: Path) -> tuple[Path, BinaryIO]:
  """A new temporary folder beside a path, and its locked file."""
  while True:
    work = unfinished_name(path)
    work.mkdir()
    try:
      lock = (work / _LOCK).open('wb')
    except FileNotFoundError:
      continue  # Another process took it for an abandoned one.
    # Some file systems have no locks: there nothing is ever removed.
    with contextlib.suppress(OSError):
      fcntl.flock(lock, fcntl.LOCK_EX)
    if work.exists():
      return work, lock
    lock.close()


def _remove_abandoned(path: Path) -> None:
  """Removes the temporary folders of a path that no process has locked."""
  for name in os.listdir(path.parent):
    found = path.with_name(name)
    if not (
      name.startswith(path.name)
      and _UNFINISHED.fullmatch(name, len(path.name))
      and found.is_dir()
    ):
      continue
    # It is locked, belongs to somebody else, or went meanwhile.
    with contextlib.suppress(OSError), (found / _LOCK).open('wb') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      shutil.rmtree(found, ignore_errors=True)


_PIECE = 8 * 2**20  # bytes


def allocate(file: BinaryIO, size: int) -> None:
  """Appends zeros to a file, for which room on the disk is taken at once.

  A file that is only extended has no room yet: a disk that becomes full while
  the file is mapped ends the process by a signal.

  Args:
    file: the file; it is written to its end.
    size: number of zeros, in bytes.

  Raises:
    OSError: the disk is full.
  """
  file.flush()
  if size and hasattr(os, 'posix_fallocate'):
    os.posix_fallocate(file.fileno(), file.tell(), size)
    return
  for start in range(0, size, _PIECE):
    file.write(bytes(min(_PIECE, size - start)))
  file.flush()


def write_bytes(path: Path, content: bytes) -> None:
  """Writes a file, whole or not at all.

  Raises:
    InputError: the file cannot be written.
  """
  with writing(path), replacing(path) as work:
    work.write_bytes(content)


def write_text(path: Path, text: str) -> None:
  """Writes a text in UTF-8, whole or not at all."""
  write_bytes(path, text.encode())


def check_writable(path: Path, option: str) -> None:
  """Raises an error if a result could not be written to `path` later.

  Args:
    path: file to be created or replaced.
    option: the command-line option that names the file, for the message.

  Raises:
    InputError: `path` is a folder, or its folder is missing or not writable.
  """
  folder = path.absolute().parent
  if path.is_dir():
    why = f'{path} is a folder; move it away'
  elif path.exists() and not path.is_file():
    why = f'{path} is no file that can be replaced'
  elif not folder.is_dir():
    why = f'{folder} is no folder; make it'
  elif not os.access(folder, os.W_OK):
    why = f'{folder} may not be written to; change that'
  else:
    return
  raise InputError(f'{option}: {why}, or choose another place')


def check_new(path: Path, option: str) -> None:
  """Raises an error if `path` could not be made later.

  Args:
    path: file or folder to be made, with the folders above it.
    option: the command-line option that names it, for the message.

  Raises:
    InputError: it is there already, or cannot be made there.
  """
  if os.path.lexists(path):
    raise InputError(f'{option}: is there already; choose another one')
  check_place(path, option)


def check_place(path: Path, option: str) -> None:
  """Raises an error if no folders can be made above `path`.

  Args:
    path: file or folder to be made, or replaced.
    option: as in `check_new`.

  Raises:
    InputError: a file is in the way, or a permission is missing.
  """
  above = Path(os.path.abspath(path)).parents
  parent = next(folder for folder in above if os.path.lexists(folder))
  if not parent.is_dir():
    why = f'{parent} is not a folder'
  elif not os.access(parent, os.W_OK | os.X_OK):
    why = f'{parent} may not be written to'
  else:
    return
  raise InputError(
    f'{option}: cannot be made here: {why}; choose another place'
  )


def to_json(value: Any, indent: int | None = None) -> str:
  """JSON text of a value; numbers that are not finite become null.

  >>> to_json({'auc': math.nan})
  '{"auc": null}'
  """

  def finite(x: Any) -> Any:
    if isinstance(x, Mapping):
      return {k: finite(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
      return [finite(v) for v in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x

  return json.dumps(finite(value), indent=indent)


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file, whole or not at all."""
  write_text(path, to_json(value, indent=2) + '\n')


def read_json(path: Path) -> Any:
  """The value in a JSON file.

  Raises:
    OSError: the file cannot be read.
    ValueError: the file does not hold JSON.
  """
  return json.loads(path.read_bytes())
