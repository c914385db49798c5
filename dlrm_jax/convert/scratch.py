"""Large arrays in files, which the system writes to disk when memory is short.

So a table is never twice in memory. Files are allocated in full when they are
made: a disk that is full is an error there, not a crash of the process later.
"""

import math
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
      files.allocate(file, size)
    return np.memmap(path, dtype, 'r+', shape=shape)
