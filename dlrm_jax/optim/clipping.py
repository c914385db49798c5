"""Clipping by the global norm, of layers and tables together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Clip(NamedTuple):
  """What the update of tables needs to clip by the norm of all gradients.

  Attributes:
    limit: the largest norm.
    squares: f32[], sum of the squares of the layers' gradients.
  """

  limit: float
  squares: jax.Array


def clip_factor(limit: float, squares: jax.Array) -> jax.Array:
  """What gradients are multiplied by so that their norm is at most a limit.

  Args:
    limit: the largest norm.
    squares: f32[], sum of the squares of all gradients.

  >>> clip_factor(1.0, jnp.float32(16)).item()
  0.25
  """
  norm = jnp.sqrt(squares)
  return jnp.where(norm > limit, limit / norm, 1.0)
