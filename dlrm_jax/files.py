"""Files that are there whole or not at all, even after a loss of power.

A file is written under a temporary name, synced, renamed, and the folder is
synced, in this order: so a file that has its name has its content.
"""

import contextlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def unfinished_name(path: Path) -> Path:
  """A temporary path beside `path` that no other process on any host uses."""
  return path.with_name(f'{path.name}.{uuid.uuid4().hex[:12]}')


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


def publish(work: Path, path: Path) -> None:
  """Gives a finished file or folder its name, which then survives a crash.

  Args:
    work: what was written; of a folder, all files in it.
    path: its name from now on. A file replaces another; a folder does not.
  """
  if work.is_dir():
    sync_all(work)
  else:
    sync(work)
  work.replace(path)
  sync(path.parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """Yields a temporary path; publishes it as `path`, or removes it on error."""
  work = unfinished_name(path)
  try:
    yield work
    publish(work, path)
  except BaseException:
    work.unlink(missing_ok=True)
    raise


def write_bytes(path: Path, content: bytes) -> None:
  """Writes a file, whole or not at all."""
  with replacing(path) as work:
    work.write_bytes(content)


def write_text(path: Path, text: str) -> None:
  """Writes a text in UTF-8, whole or not at all."""
  write_bytes(path, text.encode())


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
