"""Branches: K models of one kind, each with vectors of its own.

They are trained in one program, each by its own loss, and score together by
the mean of their logits: an ensemble. Beside the time of K models it costs
their memory, that of tables included.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import Shapes


class Branches(nn.Module):
  """K models with the same settings.

  Attributes:
    model: the model that each branch is a copy of.
    count: K.
  """

  model: Any  # a template: as an attribute it is no submodule, only its copies
  count: int

  def roles(self, dim: int) -> dict[str, int]:
    """The roles of each branch: `role.b0`, `role.b1`, ..."""
    roles = self.model.roles(dim).items()
    return {
      _of_branch(role, k): width
      for k in range(self.count)
      for role, width in roles
    }

  def misfit(self, shapes: Shapes) -> str:
    """Why the model cannot take such inputs; '' where it can."""
    return self.model.misfit(
      Shapes(shapes.dense, _for_branch(shapes.vectors, 0))
    )

  @nn.compact
  def __call__(
    self,
    dense: jax.Array,
    vectors: Mapping[str, jax.Array],
    train: Training | None = None,
  ) -> jax.Array:
    """Logits of each branch, f32[B, K, T]; arguments as those of the model."""
    logits = [
      self.model.clone(name=f'branch_{k}', parent=self)(
        dense, _for_branch(vectors, k), train
      )
      for k in range(self.count)
    ]
    return jnp.stack(logits, 1)


def _of_branch(role: str, branch: int) -> str:
  return f'{role}.b{branch}'


def _for_branch(by_role: Mapping[str, Any], branch: int) -> dict[str, Any]:
  """What belongs to one branch, by the names that its model knows."""
  end = _of_branch('', branch)
  return {
    role.removesuffix(end): value
    for role, value in by_role.items()
    if role.endswith(end)
  }
