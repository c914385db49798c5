"""Large arrays in files, which the system writes to disk when memory is short.

So a table is never twice in memory. Files are allocated in full when they are
made: a disk that is full is an error there, not a crash of the process later.
"""

import contextlib
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dlrm_jax import files


class Scratch:
  """Makes files in a folder, and arrays of zeros in them."""

  def __init__(self, folder: Path) -> None:
    self._folder, self._count = folder, 0

  def path(self) -> Path:
    """The name of a new file."""
    self._count += 1
    return self._folder / f'scratch_{self._count}'

  def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """An array of zeros; those that have no byte are in memory."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
      return np.zeros(shape, dtype)
    path = self.path()
    with path.open('wb') as file:
      os.posix_fallocate(file.fileno(), 0, size)
    return np.memmap(path, dtype, 'r+', shape=shape)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
  """Yields a temporary folder beside a path that must not exist yet.

  What the body makes in it and does not publish is removed with it.

  Raises:
    InputError: the disk is full, a permission is missing, or the like.
  """
  work = files.unfinished_name(path.absolute())
  with files.writing(path):
    work.mkdir(parents=True)
    try:
      yield work
    finally:
      shutil.rmtree(work, ignore_errors=True)
