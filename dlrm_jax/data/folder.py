"""The folder of a prepared set: what may be in it, and when it is replaced."""

import re
from collections.abc import Sequence
from pathlib import Path

from dlrm_jax.errors import InputError

MARK = 'metadata.json'
"""A file in every prepared set. Folders without it are never overwritten."""

VOCABULARIES = 'vocabulary'
"""Folder in a prepared set that has a Parquet file for each vocabulary."""

_OWN = {MARK, 'dataset_info.json', 'features.json', VOCABULARIES}
_SHARD = re.compile(r'click_log-\w+\.array_record-')


def vocabulary_path(folder: Path, feature: str) -> Path:
  """The vocabulary of a feature in the folder of a set."""
  return folder / VOCABULARIES / f'{feature}.parquet'


def check_free(target: Path, overwrite: bool) -> None:
  """Raises `InputError` if `target` holds something that must stay.

  Args:
    target: where a prepared set is to be made; may be missing or empty.
    overwrite: whether a prepared set there may be replaced.
  """
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
  """Raises `InputError` if the folder of a set holds files of others."""
  for path in target.iterdir():
    if path.name not in _OWN and not _SHARD.match(path.name):
      raise InputError(
        f'{path} is no file of the prepared set there, and --overwrite would '
        'remove it; move it away, or choose another --output'
      )


def is_set(paths: Sequence[str]) -> bool:
  """Whether the paths name a prepared set; otherwise they are raw files."""
  sets = [path for path in paths if (Path(path) / MARK).exists()]
  if sets and len(paths) > 1:
    raise InputError(
      f'--data={" ".join(paths)}: {sets[0]} is a prepared set; expected one '
      'such set, or raw files only'
    )
  return bool(sets)
