"""`rowwise(tx)`: any row-separable Optax transform, on the touched rows only.

A wrapper in the spirit of `optax.masked`: the gradients of repeated rows are
summed, the touched rows of the optimizer state are taken out, the inner
transform runs on `f32[M, D]` as on any array, and the rows are put back.
For a transform that does nothing on a zero gradient (SGD, Adagrad, row-wise
Adagrad) this equals the dense transform exactly. For one with memory (Adam)
it is the *lazy* variant: rows rest until they are seen again.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from dlrm_jax.rows import Pytree, RowGrads, put, sum_repeated, take


def _is_row_grads(x: Any) -> bool:
  return isinstance(x, RowGrads)


def _map_grads(
  function: Callable[..., Any], grads: Pytree, *rest: Pytree
) -> Pytree:
  return jax.tree.map(function, grads, *rest, is_leaf=_is_row_grads)


@dataclasses.dataclass(frozen=True)
class _Touched:
  """Rows of a leaf, and the width of the table that they belong to."""

  rows: jax.Array
  dim: int


def _touched_of_state(
  inner: optax.GradientTransformation, state: Pytree, grads: Pytree
) -> Pytree:
  """What is touched of each leaf of a state; None for counters and the like."""
  return optax.tree.map_params(
    inner.init,
    lambda _, g: _Touched(g.rows, g.values.shape[1]),
    state,
    grads,
    transform_non_params=lambda _: None,
  )


def rowwise(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Wraps a row-separable transform so that it takes `RowGrads`.

  Args:
    inner: an Optax transform that treats every row by itself and whose state
      has rows on axis 0 wherever it has the structure of the parameters.

  Returns:
    A transform whose `init` takes the tables, a pytree of f32[R, D], and
    whose `update` takes the same pytree with `RowGrads` for leaves and
    returns `RowGrads` of distinct rows, to be added by `rows.add`.

  >>> import jax.numpy as jnp
  >>> tx, table = rowwise(optax.sgd(0.5)), jnp.zeros((4, 1))
  >>> grads = RowGrads(jnp.array([2, 2]), jnp.array([[1.0], [3.0]]))
  >>> updates, _ = tx.update(grads, tx.init(table))
  >>> take(updates.values, jnp.argmax(updates.rows == 2)).tolist()
  [-2.0]
  """

  def update(
    updates: Pytree, state: Pytree, params: Pytree | None = None
  ) -> tuple[Pytree, Pytree]:
    grads = _map_grads(sum_repeated, updates)
    rows = _touched_of_state(inner, state, grads)

    def picked(old: Any, at: _Touched | None) -> Any:
      return old if at is None else take(old, at.rows, at.dim)

    def written(old: Any, at: _Touched | None, new: Any) -> Any:
      return new if at is None else put(old, at.rows, new)

    if params is not None:
      params = _map_grads(
        lambda g, table: take(table, g.rows, g.values.shape[1]), grads, params
      )
    values, new = inner.update(
      _map_grads(lambda g: g.values, grads),
      jax.tree.map(picked, state, rows),
      params,
    )
    state = jax.tree.map(written, state, rows, new)
    return _map_grads(lambda g, v: RowGrads(g.rows, v), grads, values), state

  return optax.GradientTransformation(inner.init, update)


def has_rows(tx: optax.GradientTransformation, state: Pytree) -> Pytree:
  """For each leaf of a state whether it has rows; counters have none."""
  return optax.tree.map_params(
    tx.init, lambda _: True, state, transform_non_params=lambda _: False
  )


def with_counters(
  tx: optax.GradientTransformation, state: Pytree, other: Pytree
) -> Pytree:
  """A state that has everything without rows from another one."""
  return jax.tree.map(
    lambda rows, x, y: x if rows else y, has_rows(tx, state), state, other
  )
