"""Lookups that contenders share: tables, and ids that are drawn, not read.

RM1, RM2 and RM3 are the recommendation models of DeepRecSys (arXiv
2001.02772): many ids an example, drawn evenly here. Their tables are cut to
about 1 GB. `kaggle` has one id an example and table, by a power law. NumPy
alone.
"""

from typing import NamedTuple

import numpy as np

from benchmarks import kaggle

ADAGRAD = 'rowwise_adagrad'
# Vectors are their own gradients: a row that is read often must not diverge.
RATE = 1e-6


class Shape(NamedTuple):
  """Tables that are looked up alike.

  Attributes:
    rows: of each table.
    length: ids of an example in each table.
    dim: D.
  """

  rows: tuple[int, ...]
  length: int
  dim: int

  @property
  def bytes(self) -> int:
    """Of the rows that an example reads."""
    return len(self.rows) * self.length * self.dim * 4


SHAPES = {
  'RM1': Shape((1_000_000,) * 8, 80, 32),
  'RM2': Shape((125_000,) * 32, 120, 64),
  'RM3': Shape((800_000,) * 10, 20, 32),
  'kaggle': Shape(kaggle.ROWS, 1, kaggle.DIM),
}


def draw(shape: Shape, batch: int, count: int) -> list[np.ndarray]:
  """So many batches of ids i32[T, B, L], equal in every process."""
  if shape.length == 1:
    drawn = kaggle.draw(batch, count)
    return [np.ascontiguousarray(b.ids.T)[..., None] for b in drawn]
  rng = np.random.default_rng(0)
  size = batch, shape.length
  return [
    np.stack([rng.integers(0, rows, size, np.int32) for rows in shape.rows])
    for _ in range(count)
  ]
