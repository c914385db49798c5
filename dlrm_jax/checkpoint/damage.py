"""Why a checkpoint could not be read or written, in one line.

Only real damage is called damage: a file that is missing, cut short or other
than it was written. Other errors (permissions, file descriptors, the disk)
are reported as what they are, so that nobody removes a good checkpoint.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.errors import InputError

# TensorStore's codes of errors of the system or its resources.
_REFUSED = re.compile(
  r'(PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAVAILABLE|UNKNOWN|INTERNAL|ABORTED'
  r'|CANCELLED|DEADLINE_EXCEEDED|UNAUTHENTICATED): '
)
_OF_SYSTEM = re.compile(r"os_error_code='(\d+)'|OS error (\d+)")
_PATH = re.compile(r'"(/[^"]*)"')
_DETAILS = re.compile(r' \[(tensorstore_spec|os_error_code|OS error)')


class Damaged(Exception):
  """A part of a checkpoint is missing or differs from what was written."""


class StoreError(Exception):
  """TensorStore could not read a file or an array."""


def result_of(future: Any) -> Any:
  """The result of a future of TensorStore.

  Raises:
    StoreError: it could not read.
  """
  try:
    return future.result()
  except Exception as error:
    raise StoreError(str(error)) from error


def _number(error: Exception) -> int:
  """The system's number of an error of TensorStore; 0: it names none."""
  match = _OF_SYSTEM.search(str(error))
  return int(match[1] or match[2]) if match else 0


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
  """Whether the system refused, whatever the file holds."""
  if isinstance(error, OSError):
    return not isinstance(error, FileNotFoundError)
  if number := _number(error):
    return number != errno.ENOENT
  return bool(_REFUSED.match(str(error)))


@contextlib.contextmanager
def explain_read_errors(folder: Path, others: Sequence[int]) -> Iterator[None]:
  """Context in which errors of reading a checkpoint become `InputError`.

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
    return f'{folder}: cannot be read: {_text(error)}'
  if others:
    mend = f'move this folder away to go on from step {max(others)}'
  else:
    mend = 'there is no other checkpoint; put back a copy, or train anew'
  return f'{folder}: damaged: {_text(error)}; {mend}'


@contextlib.contextmanager
def explain_write_errors(path: Path, advice: str) -> Iterator[None]:
  """Context in which a full disk and the like become `InputError`.

  Args:
    path: the file or folder that is written.
    advice: end of the message: what to do, and what is safe.
  """
  try:
    yield
  except InputError:
    raise
  except (OSError, ValueError) as error:
    if not isinstance(error, OSError) and not _is_refused(error):
      raise
    raise InputError(
      f'{path}: cannot be written: {_text(error)}; {advice}'
    ) from error
