"""What a table is: a name, rows, a width, how it starts."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlrm_jax.rows import mix32

Initializer = Callable[[jax.Array, jax.Array, tuple[int, int]], jax.Array]
"""(seed u32[], rows i32[M], (R, D)) -> f32[M, D], the values of some rows.

A function of the seed and of the row's number: any part of a table can be
made by itself, wherever it lives.
"""


def uniform_by_rows(
  seed: jax.Array, rows: jax.Array, shape: tuple[int, int], scale: float = 1.0
) -> jax.Array:
  """U(-b, b), b = scale sqrt(1/R); facebookresearch/dlrm has a scale of 1.

  Drawn by hashing (seed, row, column), 24 bits each.
  """
  bound = scale * math.sqrt(1 / shape[0])
  row = mix32(mix32(rows.astype(jnp.uint32)) ^ seed)[:, None]
  column = jnp.arange(shape[1], dtype=jnp.uint32)[None]
  bits = mix32(row + column * jnp.uint32(0x9E3779B9)) >> 8
  return (bits.astype(jnp.float32) * 2.0**-23 - 1.0) * bound


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
