"""Adagrad as in torch, and row-wise Adagrad, which Optax lacks.

Programs differ in what they call Adagrad. Optax starts the accumulator at 0.1
and adds epsilon inside of the root (`optax.adagrad`); torch, FBGEMM and
MLPerf's DLRM start at 0 and add it outside. Row-wise Adagrad keeps one
accumulator for each row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlrm_jax.rows import Pytree

EPS = 1e-10
"""Added to the root, as in torch."""


def scale_by_adagrad(
  initial: float = 0.0, eps: float = EPS
) -> optax.GradientTransformation:
  """Adagrad as torch defines it: `g / (sqrt(sum of g^2) + eps)`.

  Source: Duchi, Hazan, Singer (2011), as in `torch.optim.Adagrad`.

  >>> tx = scale_by_adagrad()
  >>> tx.update(jnp.array([-4.0]), tx.init(jnp.zeros(1)))[0].tolist()
  [-1.0]
  """

  def init(params: optax.Params) -> optax.ScaleByRssState:
    return optax.ScaleByRssState(
      jax.tree.map(lambda p: jnp.full_like(p, initial), params)
    )

  def update(
    updates: Pytree, state: Pytree, params: Pytree | None = None
  ) -> tuple[Pytree, Pytree]:
    del params
    sums = jax.tree.map(lambda g, a: a + g * g, updates, state.sum_of_squares)
    updates = jax.tree.map(lambda g, a: g / (jnp.sqrt(a) + eps), updates, sums)
    return updates, optax.ScaleByRssState(sums)

  return optax.GradientTransformation(init, update)


class RowwiseAdagradState(NamedTuple):
  """State of row-wise Adagrad.

  Attributes:
    sum_of_squares: f32[R] for each table f32[R, D], the sum over updates of
      the mean square of a row's gradient. Checkpoints contain the name.
  """

  sum_of_squares: Pytree


def scale_by_rowwise_adagrad(
  initial: float = 0.0, eps: float = EPS
) -> optax.GradientTransformation:
  """Row-wise Adagrad: one accumulator for each row, of its mean squares.

  `acc += mean(g^2); g / (sqrt(acc) + eps)`, as in facebookresearch/dlrm's
  RWSAdagrad and in FBGEMM (whose default eps is 1e-8).

  >>> tx = scale_by_rowwise_adagrad()
  >>> g = jnp.array([[4.0, 0.0, 0.0, 0.0]])  # mean square 4
  >>> tx.update(g, tx.init(g))[0].tolist()
  [[2.0, 0.0, 0.0, 0.0]]
  """

  def init(params: optax.Params) -> RowwiseAdagradState:
    return RowwiseAdagradState(
      jax.tree.map(lambda p: jnp.full(p.shape[:1], initial, p.dtype), params)
    )

  def update(
    updates: Pytree, state: Pytree, params: Pytree | None = None
  ) -> tuple[Pytree, Pytree]:
    del params
    sums = jax.tree.map(
      lambda g, a: a + jnp.mean(g * g, -1), updates, state.sum_of_squares
    )
    updates = jax.tree.map(
      lambda g, a: g / (jnp.sqrt(a)[:, None] + eps), updates, sums
    )
    return updates, RowwiseAdagradState(sums)

  return optax.GradientTransformation(init, update)
