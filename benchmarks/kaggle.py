"""A log of the Kaggle shape that contenders share: drawn, not read.

26 features of as many ids as Criteo Kaggle has, at most a million each; ids
by a power law, scattered over the table. NumPy alone.
"""

from typing import NamedTuple

import numpy as np

ROWS = tuple(
  min(rows, 1_000_000)
  for rows in (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683),
    *(8351593, 3194, 27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15),
    *(286181, 105, 142572),
  )
)
DENSE, DIM = 13, 16
BOTTOM, TOP = (512, 256, 64, DIM), (512, 256, 1)
RATE = 0.1


class Drawn(NamedTuple):
  """A batch of B examples.

  Attributes:
    dense: f32[B, 13].
    ids: i32[B, 26].
    labels: f32[B].
  """

  dense: np.ndarray
  ids: np.ndarray
  labels: np.ndarray


def draw(batch: int, count: int, exponent: float = 1.1) -> list[Drawn]:
  """So many batches, equal in every process."""
  rng = np.random.default_rng(0)
  scatter = [rng.permutation(rows).astype(np.int32) for rows in ROWS]
  made = []
  for _ in range(count):
    rank = [_ranks(rng, rows, batch, exponent) for rows in ROWS]
    ids = [at[r] for at, r in zip(scatter, rank, strict=True)]
    dense = rng.normal(0, 1, (batch, DENSE)).astype(np.float32)
    labels = (rng.random(batch) < 0.25).astype(np.float32)
    made.append(Drawn(dense, np.stack(ids, 1), labels))
  return made


def _ranks(
  rng: np.random.Generator, rows: int, count: int, exponent: float
) -> np.ndarray:
  """Ranks with a density of rank ** -exponent, by the inverse of its sum."""
  power = 1 - exponent
  u = rng.random(count)
  rank = ((1 + rows) ** power * u + (1 - u)) ** (1 / power) - 1
  return np.minimum(rank.astype(np.int64), rows - 1)
