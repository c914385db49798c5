"""Optimizers of rows that a native kernel knows, and what it needs of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlrm_jax import native
from dlrm_jax.rows import Pytree

_LEAVES = {
  native.Kind.SGD: (),
  native.Kind.ADAGRAD: ('sum_of_squares',),
  native.Kind.ROWWISE_ADAGRAD: ('sum_of_squares',),
  native.Kind.ADAM: ('mu', 'nu'),
}
"""Fields of the transform's state that have rows."""


class Fused(NamedTuple):
  """A chain of a transform and its learning rate, as a kernel does it.

  Attributes:
    kind: the transform.
    rate: the learning rate, as `optax.scale_by_learning_rate` has it.
    eps: that of Adagrad and Adam.
    decays: b1 and b2 of Adam.
  """

  kind: native.Kind
  rate: optax.ScalarOrSchedule
  eps: float = 0.0
  decays: tuple[float, float] = (0.0, 0.0)

  def numbers(self, state: Pytree, factor: jax.Array | None) -> jax.Array:
    """The numbers of the next step, f32[8], as `native.update` takes them.

    Args:
      state: that of the chain, before the step.
      factor: f32[], of the learning rate; None: 1.
    """
    first, last = state
    corrections = [jnp.ones(())] * 2
    if self.kind is native.Kind.ADAM:
      count = (first.count + 1).astype(jnp.float32)
      corrections = [1 - jnp.float32(b) ** count for b in self.decays]
    rate = self.rate(last.count) if callable(self.rate) else self.rate
    rate = jnp.asarray(rate, jnp.float32)
    if factor is not None:
      rate = rate * factor
    given = [self.eps, *self.decays, *(1 - b for b in self.decays)]
    return jnp.stack([-rate, *map(jnp.float32, given), *corrections])

  def rows(self, state: Pytree, stack: str) -> list[jax.Array]:
    """The arrays of a state that have rows of a stack."""
    return [getattr(state[0], name)[stack] for name in _LEAVES[self.kind]]

  def with_rows(
    self, state: Pytree, rows: dict[str, list[jax.Array]]
  ) -> Pytree:
    """A state with other arrays for some stacks."""
    first: Any = state[0]
    changed = {
      name: getattr(first, name) | {s: x[i] for s, x in rows.items()}
      for i, name in enumerate(_LEAVES[self.kind])
    }
    return (first._replace(**changed) if changed else first, state[1])
