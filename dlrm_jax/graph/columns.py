"""Columns of matrices, side by side, that are not read yet.

Gather copies numbers one by one. A product of such columns is faster as one of
the whole matrices, by a kernel whose other rows are zeros.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dlrm_jax.graph.builder import Array, Builder, Lazy, Shape, Tensor

_MOST = 3
"""Most columns of whole matrices for each that is read."""


class Part(NamedTuple):
  """A matrix [B, n], and the numbers of the columns that are read, in order."""

  matrix: Array
  columns: np.ndarray


class Columns(Lazy):
  """Columns of matrices, [B, sum of their numbers]."""

  def __init__(self, parts: Sequence[Part], shape: Shape) -> None:
    """Notes the parts, and the shape of the array."""
    self.parts, self.shape = parts, shape

  def made(self, builder: Builder) -> Tensor:
    """Adds a Gather for each part."""

    def read(part: Part) -> Array:
      matrix, columns = part
      if np.array_equal(columns, np.arange(matrix.shape[1])):
        return matrix
      shape = matrix.shape[0], len(columns)
      columns = columns.astype(np.int64)
      return builder.node('Gather', matrix, columns, axis=1, shape=shape)

    return _beside(builder, [read(part) for part in self.parts], 1, self.shape)

  def whole(self, builder: Builder) -> Part | None:
    """The matrices as one, and the numbers of the columns in it.

    Returns:
      None where a column is read twice, or too few are read.
    """
    matrices = [part.matrix for part in self.parts]
    widths = [matrix.shape[1] for matrix in matrices]
    starts = np.cumsum([0, *widths])
    columns = np.concatenate(
      [
        part.columns + start
        for part, start in zip(self.parts, starts, strict=False)
      ]
    )
    if len(np.unique(columns)) < len(columns):
      return None
    if starts[-1] > _MOST * len(columns):
      return None
    shape = self.shape[0], int(starts[-1])
    return Part(_beside(builder, matrices, 1, shape), columns)


def gathered(matrix: Array, columns: np.ndarray, shape: Shape) -> Columns:
  """Columns of one matrix."""
  return Columns([Part(matrix, columns)], shape)


def concatenated(
  builder: Builder, parts: Sequence[Array], axis: int, shape: Shape
) -> Array:
  """Arrays side by side; columns stay columns."""
  if axis != 1 or not any(isinstance(x, Columns) for x in parts):
    return _beside(builder, parts, axis, shape)
  found: list[Part] = []
  for x in parts:
    if isinstance(x, Columns):
      found += x.parts
    else:
      found.append(Part(x, np.arange(x.shape[1])))
  return Columns(found, shape)


def _beside(
  builder: Builder, parts: Sequence[Array], axis: int, shape: Shape
) -> Tensor:
  if len(parts) == 1:
    return builder.tensor(parts[0])
  return builder.node('Concat', *parts, axis=axis, shape=shape)
