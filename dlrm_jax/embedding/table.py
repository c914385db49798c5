"""What a table is: a name, rows, a width, how it starts."""

import dataclasses
import math
from collections.abc import Callable

import jax

Initializer = Callable[[jax.Array, tuple[int, int]], jax.Array]
"""(key, (R, D)) -> f32[R, D]."""


def uniform_by_rows(
  key: jax.Array, shape: tuple[int, int], scale: float = 1.0
) -> jax.Array:
  """U(-b, b), b = scale sqrt(1/R); facebookresearch/dlrm has a scale of 1."""
  bound = scale * math.sqrt(1 / shape[0])
  return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


@dataclasses.dataclass(frozen=True)
class Table:
  """A logical table of embeddings, `f32[rows, dim]`.

  Attributes:
    name: unique in a collection.
    rows: R.
    dim: D.
    init: makes the first values.
  """

  name: str
  rows: int
  dim: int
  init: Initializer = uniform_by_rows
