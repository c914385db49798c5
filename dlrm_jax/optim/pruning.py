"""Kernels of layers pruned in blocks, by the size of their weights.

A block is some rows and columns of a kernel f32[in, out]; at its last rows and
columns blocks may be smaller. Those whose weights have the least mean square
go; among whole blocks, these are those of the least L2 norm.

In training, sparsity grows as in Zhu and Gupta, "To prune, or not to prune",
arXiv 1710.01878, equation 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from dlrm_jax.optim.block import Block
from dlrm_jax.rows import Pytree


class Pruning(NamedTuple):
  """How kernels are pruned.

  Attributes:
    sparsity: the share of the blocks of a kernel that go, from 0, less than 1;
      rounded down to whole blocks, so that one is left.
    block: their size.
  """

  sparsity: float
  block: Block


class Gradual(NamedTuple):
  """When kernels are pruned in training.

  Attributes:
    start: the first update at which blocks go, counted from 1.
    steps: number of updates from there until `Pruning.sparsity` is reached.
    every: number of updates between two times.
  """

  start: int
  steps: int
  every: int


def kernels_of(params: Pytree) -> dict[str, jax.Array]:
  """The kernels of a model that can be pruned, by name.

  These are the matrices of its layers, but not of the layers of encodings, and
  not those of a single output, in whose product there is nothing to gain.

  Args:
    params: parameters of the layers of a network.
  """
  found: dict[str, Any] = flatten_dict(dict(params), sep='/')
  return {
    name: x
    for name, x in found.items()
    if name.startswith('model/') and x.ndim == 2 and x.shape[1] > 1
  }


def _sums(x: jax.Array, block: Block) -> jax.Array:
  """Sums over each block of f32[in, out], f32[blocks, blocks]."""
  rows, columns = map(min, block, x.shape)
  x = jnp.pad(x, [(0, -x.shape[0] % rows), (0, -x.shape[1] % columns)])
  return jnp.sum(x.reshape(len(x) // rows, rows, -1, columns), (1, 3))


def _of_weights(
  found: jax.Array, shape: tuple[int, ...], block: Block
) -> jax.Array:
  """What was found of each block, for all weights of a kernel."""
  rows, columns = map(min, block, shape)
  wide = jnp.repeat(jnp.repeat(found, rows, 0), columns, 1)
  return wide[: shape[0], : shape[1]]


def _sizes(kernel: jax.Array, block: Block) -> jax.Array:
  """The mean square of the weights of each block, f32[blocks, blocks]."""
  return _sums(jnp.square(kernel), block) / _sums(jnp.ones_like(kernel), block)


def _greatest(sizes: jax.Array, sparsity: jax.typing.ArrayLike) -> jax.Array:
  """Which blocks are left, bool[blocks, blocks]; of equal ones the last."""
  count = jnp.floor(jnp.float32(sparsity) * sizes.size).astype(jnp.int32)
  order = jnp.argsort(sizes, axis=None)
  kept = jnp.arange(sizes.size) >= jnp.minimum(count, sizes.size - 1)
  return jnp.zeros(sizes.size, bool).at[order].set(kept).reshape(sizes.shape)


def pruned(kernel: jax.Array, pruning: Pruning) -> jax.Array:
  """A kernel f32[in, out] without its least blocks, which become zeros."""
  sizes = _sizes(kernel, pruning.block)
  kept = _greatest(sizes, pruning.sparsity)
  return jnp.where(_of_weights(kept, kernel.shape, pruning.block), kernel, 0.0)


class PruningState(NamedTuple):
  """The state of `prune_gradually`.

  Attributes:
    count: i32[], number of updates so far.
  """

  count: jax.Array


def prune_gradually(
  pruning: Pruning, when: Gradual
) -> optax.GradientTransformation:
  """A transform whose updates turn the least blocks into zeros.

  It must be the last of a chain. At update k, counted from 1, where k is
  `start`, `start + every` and so on, the share

      sparsity * (1 - (1 - min((k - start) / steps, 1)) ** 3)

  of the blocks goes, and blocks that are zeros from `start` on stay so. Hence
  parameters are their own mask, and the state is a counter.

  Args:
    pruning: how kernels are pruned in the end.
    when: when blocks go.
  """

  def init(params: Pytree) -> PruningState:
    del params
    return PruningState(jnp.zeros((), jnp.int32))

  def changed(k: jax.Array, kernel: jax.Array, change: jax.Array) -> jax.Array:
    gone = (_sizes(kernel, pruning.block) == 0) & (k > when.start)
    share = pruning.sparsity
    if when.steps:
      left = 1 - jnp.clip((k - when.start) / when.steps, 0, 1)
      share = share * (1 - left**3)
    sizes = jnp.where(gone, 0.0, _sizes(kernel + change, pruning.block))
    due = (k >= when.start) & ((k - when.start) % when.every == 0)
    kept = lax.cond(
      due,
      lambda: _greatest(sizes, share),
      lambda: jnp.ones(sizes.shape, bool),
    )
    kept = _of_weights(kept & ~gone, kernel.shape, pruning.block)
    return jnp.where(kept, change, -kernel)

  def update(
    updates: Pytree, state: Pytree, params: Pytree | None = None
  ) -> tuple[Pytree, Pytree]:
    k = jnp.asarray(optax.safe_increment(state.count))
    changes: dict[str, Any] = flatten_dict(dict(updates), sep='/')
    for name, kernel in kernels_of(params).items():
      changes[name] = changed(k, kernel, changes[name])
    return unflatten_dict(changes, sep='/'), PruningState(k)

  return optax.GradientTransformation(init, update)
