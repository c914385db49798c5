"""Why a checkpoint could not be read or written, in one line.

Only what is truly damage is called so: a file that is missing, cut or not as
it was written. Everything else (permissions, descriptors, the disk) is told
as it is, so that nobody removes what is good.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.errors import InputError

# TensorStore's words for what the system or its resources refuse.
_REFUSED = re.compile(
  r'(PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAVAILABLE|UNKNOWN|INTERNAL|ABORTED'
  r'|CANCELLED|DEADLINE_EXCEEDED|UNAUTHENTICATED): '
)
_OF_SYSTEM = re.compile(r"os_error_code='(\d+)'|OS error (\d+)")
_PATH = re.compile(r'"(/[^"]*)"')
_DETAILS = re.compile(r' \[(tensorstore_spec|os_error_code|OS error)')


class Damaged(Exception):
  """Something of a checkpoint is not as it was written; says what."""


class StoreError(Exception):
  """TensorStore could not read something; says what and why."""


def result_of(future: Any) -> Any:
  """What TensorStore read.

  Raises:
    StoreError: it could not.
  """
  try:
    return future.result()
  except Exception as error:
    raise StoreError(str(error)) from error


def _number(error: Exception) -> int:
  """What the system called an error of TensorStore; 0: nothing."""
  found = _OF_SYSTEM.search(str(error))
  return int(found[1] or found[2]) if found else 0


def _text(error: Exception) -> str:
  if isinstance(error, OSError) and error.strerror:
    name = f'{error.filename}: ' if error.filename else ''
    return f'{name}{error.strerror}'
  line = (str(error).strip() or repr(error)).splitlines()[0]
  if number := _number(error):
    paths = _PATH.findall(line)
    return ': '.join([*paths[-1:], os.strerror(number)])
  return _DETAILS.split(line)[0]


def _is_refused(error: Exception) -> bool:
  """Whether the system did not let it happen, whatever the file holds."""
  if isinstance(error, OSError):
    return not isinstance(error, FileNotFoundError)
  if number := _number(error):
    return number != errno.ENOENT
  return bool(_REFUSED.match(str(error)))


@contextlib.contextmanager
def reading(folder: Path, others: Sequence[int]) -> Iterator[None]:
  """Tells what fails within it as what it is.

  Args:
    folder: the checkpoint that is read.
    others: steps of other checkpoints.
  """
  try:
    yield
  except (Damaged, StoreError, OSError, InputError) as error:
    if isinstance(error, InputError) and folder.exists():
      raise
    raise InputError(_why_not_read(folder, others, error)) from error


def _why_not_read(folder: Path, others: Sequence[int], error: Exception) -> str:
  if not folder.exists():
    return (
      f'{folder}: removed while it was read, as the run that trains there '
      f'keeps only some checkpoints; give the command again'
    )
  if _is_refused(error):
    return f'{folder}: can not be read: {_text(error)}'
  if others:
    mend = f'move this folder away to go on from step {max(others)}'
  else:
    mend = 'there is no other checkpoint; put back a copy, or train anew'
  return f'{folder}: damaged: {_text(error)}; {mend}'


@contextlib.contextmanager
def writing(path: Path, advice: str) -> Iterator[None]:
  """Tells a full disk, and what else the system refuses, in one line.

  Args:
    path: what is written.
    advice: what to do, and what is safe.
  """
  try:
    yield
  except InputError:
    raise
  except (OSError, ValueError) as error:
    if not isinstance(error, OSError) and not _is_refused(error):
      raise
    raise InputError(
      f'{path}: can not be written: {_text(error)}; {advice}'
    ) from error
