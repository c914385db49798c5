"""What layers need in training that act otherwise there than in scoring."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrm_jax.rows import mix32


class Training(NamedTuple):
  """Given to a model in training; in scoring it gets None.

  Attributes:
    seed: u32[], another number in each step.
    places: i32[B], number of each example in the global batch, so that what is
      random does not depend on the device that computes it.
  """

  seed: jax.Array
  places: jax.Array


def random_bits(training: Training, use: int, width: int) -> jax.Array:
  """Random bits u32[B, width] of a step.

  Hashed from the seed, the use, the example's place and the column: the same
  on any number of devices.

  Args:
    training: seed and places.
    use: a number of the layer, so that no two layers have the same bits.
    width: number of columns.
  """
  start = mix32(training.seed ^ jnp.uint32(use))
  rows = mix32(training.places.astype(jnp.uint32) ^ start)
  columns = jnp.arange(width, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
  return mix32(rows[:, None] + columns[None])
