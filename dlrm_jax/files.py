"""Files that are there whole or not at all, even after a loss of power.

A file is written under a temporary name, synced, renamed, and the folder is
synced, in this order: so a file that has its name has its content.
"""

import contextlib
import errno
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dlrm_jax.errors import InputError


def unfinished_name(path: Path) -> Path:
  """A temporary path beside `path` that no other process on any host uses."""
  return path.with_name(f'{path.name}.{uuid.uuid4().hex[:12]}')


_UNFINISHED = re.compile(r'\.[0-9a-f]{12}$')


def remove_unfinished(folder: Path) -> None:
  """Removes what killed processes were writing, in a folder and all in it.

  Workers of a killed process may live a moment longer: what they still write
  is lost with them.
  """
  for here, folders, names in os.walk(folder, topdown=False):
    for name in filter(_UNFINISHED.search, folders):
      shutil.rmtree(Path(here) / name, ignore_errors=True)
    for name in filter(_UNFINISHED.search, names):
      (Path(here) / name).unlink(missing_ok=True)


def sync(path: Path) -> None:
  """Waits until a file, or the names in a folder, are on the disk."""
  number = os.open(path, os.O_RDONLY)
  try:
    os.fsync(number)
  finally:
    os.close(number)


def sync_all(folder: Path) -> None:
  """Waits until a folder, with all that is in it, is on the disk."""
  for here, _, names in os.walk(folder):
    for name in names:
      sync(Path(here) / name)
    sync(Path(here))


def publish(work: Path, path: Path, synced: bool = True) -> None:
  """Gives a finished file or folder its name, which then survives a crash.

  Args:
    work: what was written; of a folder, all files in it.
    path: its name from now on. A file replaces another; a folder does not.
    synced: False where a loss of power may cut the file, because who reads it
      compares its size, and can make it again. Waiting for the disk costs
      more than making many small files.
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
  """What the system refuses within it is told in one line.

  Raises:
    InputError: the disk is full, a right was lost, or the like.
  """
  try:
    yield
  except OSError as error:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    mend = '; make room, and the same command goes on' if full else ''
    raise InputError(
      f'{path}: can not be written: {error.strerror or error}{mend}'
    ) from error


def write_bytes(path: Path, content: bytes) -> None:
  """Writes a file, whole or not at all.

  Raises:
    InputError: it can't be written.
  """
  with writing(path), replacing(path) as work:
    work.write_bytes(content)


def write_text(path: Path, text: str) -> None:
  """Writes a text in UTF-8, whole or not at all."""
  write_bytes(path, text.encode())


def check_writable(path: Path, option: str) -> None:
  """Raises before the work where its result could not be written after it.

  Args:
    path: of a file, to be made or replaced.
    option: that says where, for the message.

  Raises:
    InputError: a folder has its name, or it can't be made in its folder.
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


def to_json(value: Any, indent: int | None = None) -> str:
  """JSON text, in which a number that is not finite is null.

  >>> to_json({'auc': math.nan})
  '{"auc": null}'
  """

  def known(x: Any) -> Any:
    if isinstance(x, Mapping):
      return {k: known(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
      return [known(v) for v in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x

  return json.dumps(known(value), indent=indent)


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file, whole or not at all."""
  write_text(path, to_json(value, indent=2) + '\n')


def read_json(path: Path) -> Any:
  """The value in a JSON file.

  Raises:
    OSError: the file can't be read.
    ValueError: it does not hold JSON.
  """
  return json.loads(path.read_bytes())
