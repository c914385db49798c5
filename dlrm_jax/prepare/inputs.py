"""Names of an input -> files: folders of part files, and globs."""

import glob
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from dlrm_jax.data.folder import MARK
from dlrm_jax.errors import InputError


def _in_order(names: Sequence[str]) -> list[str]:
  """Sorts names, and numbers in them by value: day_2 before day_10."""

  def key(name: str) -> list[tuple[int, str]]:
    return [
      (int(part), '') if part.isdecimal() else (-1, part)
      for part in re.split(r'([0-9]+)', name)
    ]

  return sorted(names, key=lambda name: (key(name), name))


def _belongs(path: str, is_log: Callable[[str], bool]) -> bool:
  """Whether a path in a folder or of a glob is read; empty files are not.

  Broken links are, so that their reader reports them.
  """
  if os.path.isfile(path) and not os.path.getsize(path):
    return False
  return os.path.isdir(path) or is_log(path)


def _part_files(folder: str, is_log: Callable[[str], bool]) -> list[str]:
  """The files of a folder that Spark or the like has written.

  Files whose names begin with a dot or an underscore (_SUCCESS) and empty
  files are left out.

  Raises:
    InputError: the folder has folders, or no files.
  """
  if (Path(folder) / MARK).exists():
    raise InputError(
      f'{folder}: a prepared set; expected raw files, or a folder of them'
    )
  files, within = [], []
  try:
    entries = list(os.scandir(folder))
  except OSError as error:
    raise InputError(f'{folder}: {error.strerror}') from None
  for entry in entries:
    if entry.name.startswith(('.', '_')):
      continue
    if entry.is_dir():
      within.append(entry.name)
    elif _belongs(entry.path, is_log):
      files.append(entry.path)
  if within:
    raise InputError(
      f'{folder}: has folders within ({", ".join(sorted(within)[:3])}), whose '
      'names may say what rows lack; expected files only: name the folders '
      'that have them'
    )
  if not files:
    raise InputError(
      f'{folder}: a folder without files of a log; expected some'
    )
  return _in_order(files)


def expanded(
  names: Sequence[str], is_log: Callable[[str], bool] = lambda path: True
) -> list[str]:
  """Replaces each folder and each glob by its files.

  Args:
    names: names of files, folders of part files, or globs ('day_*') that the
      shell has left.
    is_log: whether a file in a folder or of a glob is a file of the log.

  Raises:
    InputError: a folder or a glob gives no files.
  """
  files: list[str] = []
  for name in names:
    paths = [name]
    if glob.has_magic(name) and not os.path.exists(name):
      paths = _in_order([p for p in glob.glob(name) if _belongs(p, is_log)])
      if not paths:
        raise InputError(f'{name}: no such file, and nothing matches it')
    for path in paths:
      files += _part_files(path, is_log) if os.path.isdir(path) else [path]
  return files
