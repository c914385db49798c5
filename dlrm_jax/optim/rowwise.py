"""`rowwise(tx)`: any row-separable Optax transform, on the touched rows only.

A wrapper like `optax.masked`: the gradients of repeated rows are summed, the
touched rows of the optimizer state are taken out, the inner transform runs on
f32[M, D] as on any array, and the new rows are put back. For a transform that
does nothing where the gradient is zero (SGD, Adagrad, row-wise Adagrad) this
equals the dense transform exactly. A transform with memory (Adam) becomes its
*lazy* variant: the state of a row does not change until the row is seen again.

A gradient may also be an array, that of a whole table: then every row moves, as
under the inner transform alone.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from dlrm_jax.optim.fused import Fused
from dlrm_jax.optim.separable import check_separable
from dlrm_jax.rows import Pytree, RowGrads, put, sum_repeated, take

Grads = RowGrads | jax.Array
"""The gradient of a table: of some rows, or f32[R, D] of all."""


class Kept(abc.ABC):
  """A table, or an array of a state, kept in a form that `rowwise` ignores."""

  @abc.abstractmethod
  def read(self, rows: jax.Array | None) -> jax.Array:
    """Values of rows i32[M], f32[M, D] or f32[M]; None: of all rows."""

  @abc.abstractmethod
  def write(self, rows: jax.Array | None, values: jax.Array) -> Pytree:
    """What keeps them, with other values of distinct rows, or of all."""


def _is_row_grads(x: Any) -> bool:
  return isinstance(x, RowGrads)


def _map_grads(
  function: Callable[..., Any], grads: Pytree, *rest: Pytree
) -> Pytree:
  return jax.tree.map(function, grads, *rest, is_leaf=_is_row_grads)


def _take_touched(table: Any, grads: Grads) -> jax.Array:
  """The rows f32[M, D], or numbers f32[M], that a gradient touches."""
  if isinstance(table, Kept):
    return table.read(_rows_of(grads))
  if not isinstance(grads, RowGrads):
    return table if table.ndim == 1 else table.reshape(grads.shape)
  return take(table, grads.rows, grads.values.shape[1])


def _rows_of(grads: Grads) -> jax.Array | None:
  return grads.rows if isinstance(grads, RowGrads) else None


def _put_touched(
  inner: optax.GradientTransformation,
  state: Pytree,
  touched: Pytree,
  grads: Pytree,
) -> Pytree:
  """The state with its touched rows replaced, and its counters."""
  # Optax says which leaves of a state have rows: these become RowGrads.
  new = optax.tree.map_params(
    inner.init, lambda x, g: _like(g, x), touched, grads
  )

  def put_leaf(new: Any, old: Any) -> Any:
    if isinstance(old, Kept):
      return old.write(_rows_of(new), getattr(new, 'values', new))
    if _is_row_grads(new):
      return put(old, new.rows, new.values)
    return new.reshape(old.shape)

  return jax.tree.map(put_leaf, new, state, is_leaf=_is_row_grads)


def _like(grads: Grads, values: jax.Array) -> Grads:
  """Values that belong to the rows of a gradient."""
  if isinstance(grads, RowGrads):
    return RowGrads(grads.rows, values)
  return values


class RowTransform(NamedTuple):
  """A transform of rows, with the functions of an Optax transform.

  Attributes:
    init: tables -> state.
    update: its gradients may be `RowGrads`.
    fused: how a native kernel does the same; None: none does.
  """

  init: optax.TransformInitFn
  update: optax.TransformUpdateFn
  fused: Fused | None = None


def rowwise(
  inner: optax.GradientTransformation, fused: Fused | None = None
) -> RowTransform:
  """Wraps a row-separable transform so that it takes `RowGrads`.

  Args:
    inner: an Optax transform that treats each row by itself and whose state
      has rows on axis 0 wherever it has the structure of the parameters.
    fused: how a native kernel does the same; None: none does.

  Returns:
    A transform whose `init` takes the tables, a pytree of f32[R, D], and
    whose `update` takes the same pytree with `RowGrads` for leaves and
    returns `RowGrads` of distinct rows, to be added by `rows.add`; an array
    f32[R, D] for a leaf gives an array. Its parameters, if given, are the
    tables. In the place of a table, or of an array of its state, it takes
    what is `Kept`; of a state it returns the arrays.

  Raises:
    InputError: the update of a row depends on other rows.

  >>> import jax.numpy as jnp
  >>> tx, table = rowwise(optax.sgd(0.5)), jnp.zeros((4, 1))
  >>> grads = RowGrads(jnp.array([2, 2]), jnp.array([[1.0], [3.0]]))
  >>> updates, _ = tx.update(grads, tx.init(table))
  >>> take(updates.values, jnp.argmax(updates.rows == 2)).tolist()
  [-2.0]
  """
  check_separable(inner)

  def update(
    updates: Pytree, state: Pytree, params: Pytree | None = None
  ) -> tuple[Pytree, Pytree]:
    grads = _map_grads(
      lambda g: sum_repeated(g) if _is_row_grads(g) else g, updates
    )
    touched = optax.tree.map_params(inner.init, _take_touched, state, grads)
    if params is not None:
      params = _map_grads(lambda g, p: _take_touched(p, g), grads, params)
    values = _map_grads(lambda g: getattr(g, 'values', g), grads)
    values, touched = inner.update(values, touched, params)
    state = _put_touched(inner, state, touched, grads)
    return _map_grads(_like, grads, values), state

  return RowTransform(inner.init, update, fused)


def has_rows(tx: RowTransform, state: Pytree) -> Pytree:
  """For each leaf of a state whether it has rows; counters have none."""
  return optax.tree.map_params(
    tx.init, lambda _: True, state, transform_non_params=lambda _: False
  )


def with_counters(tx: RowTransform, state: Pytree, other: Pytree) -> Pytree:
  """The rows of one state with the counters of another."""
  return jax.tree.map(
    lambda is_rows, mine, others: mine if is_rows else others,
    has_rows(tx, state),
    state,
    other,
  )
