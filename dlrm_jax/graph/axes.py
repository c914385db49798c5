"""Operations of JAX that move, join, sum or choose along axes."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from dlrm_jax.graph.builder import Array, Builder, NoOperator, Operation, Shape
from dlrm_jax.graph.columns import concatenated, gathered


def full(builder: Builder, x: Array, shape: Shape) -> Array:
  """An array as long as its type says.

  Raises:
    NoOperator: it would be repeated for each example.
  """
  if tuple(x.shape) == tuple(shape):
    return x
  short = (1,) * (len(shape) - len(x.shape)) + tuple(x.shape)
  sizes = [1 if a == b else b for a, b in zip(short, shape, strict=True)]
  if not all(isinstance(size, int) for size in sizes):
    raise NoOperator('a constant beside each example')
  if isinstance(x, np.ndarray):
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(sizes)))
  return builder.node('Expand', x, numbers(sizes), shape=shape)


def numbers(values: Sequence[int] | np.ndarray) -> np.ndarray:
  """Axes or sizes, as operators take them."""
  return np.asarray(values, np.int64)


def _whole(
  builder: Builder, operation: Operation, inputs: Sequence[Array]
) -> list[Array]:
  """The inputs of an operation, all in their full length."""
  return [
    full(builder, x, kind.shape)
    for x, kind in zip(inputs, operation.given, strict=True)
  ]


def reduce(
  operator: str, builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  """An operator that reduces axes, which vanish."""
  (x,) = _whole(builder, operation, inputs)
  axes, shape = numbers(operation.params['axes']), operation.result.shape
  return builder.node(operator, x, axes, keepdims=0, shape=shape)


def broadcast(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  """New axes have length 1; what reads them broadcasts."""
  x, rank = inputs[0], len(operation.result.shape)
  axes = operation.params['broadcast_dimensions']
  axes = axes[len(axes) - len(x.shape) :]
  sizes: list[Any] = [1] * rank
  for axis, size in zip(axes, x.shape, strict=True):
    sizes[axis] = size
  if isinstance(x, np.ndarray):
    return x.reshape(sizes)
  new = [axis for axis in range(rank) if axis not in axes]
  if not new:
    return x
  return builder.node('Unsqueeze', x, numbers(new), shape=tuple(sizes))


def reshape(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  """Reshape, of which one size may depend on the batch."""
  (x,) = _whole(builder, operation, inputs[:1])
  shape = operation.result.shape
  sizes = [size if isinstance(size, int) else -1 for size in shape]
  if sizes.count(-1) > 1:
    raise NoOperator('reshape to two unknown sizes')
  return builder.node('Reshape', x, numbers(sizes), shape=shape)


def squeeze(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  """Squeeze."""
  (x,) = _whole(builder, operation, inputs)
  axes, shape = operation.params['dimensions'], operation.result.shape
  return builder.node('Squeeze', x, numbers(axes), shape=shape)


def _ordered(builder: Builder, x: Array, order: Sequence[int]) -> Array:
  """An array whose axes have another order."""
  if list(order) == list(range(len(order))):
    return x
  shape = tuple(x.shape[axis] for axis in order)
  return builder.node('Transpose', x, perm=list(order), shape=shape)


def transpose(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  """Transpose."""
  (x,) = _whole(builder, operation, inputs)
  return _ordered(builder, x, operation.params['permutation'])


def slices(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  """Slice, of the axes that become shorter."""
  (x,), given = _whole(builder, operation, inputs), operation.given[0].shape
  starts, limits, steps = (
    operation.params[name]
    for name in ('start_indices', 'limit_indices', 'strides')
  )
  steps = steps or (1,) * len(given)
  cuts = [
    (axis, *cut)
    for axis, cut in enumerate(zip(starts, limits, steps, strict=True))
    if cut != (0, given[axis], 1)
  ]
  if not cuts:
    return x
  axes, starts, limits, steps = map(numbers, zip(*cuts, strict=True))
  shape = operation.result.shape
  return builder.node('Slice', x, starts, limits, axes, steps, shape=shape)


def concatenate(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  """Concat, or columns; arrays of length 0 are left out."""
  axis, shape = operation.params['dimension'], operation.result.shape
  parts = [
    full(builder, x, kind.shape)
    for x, kind in zip(inputs, operation.given, strict=True)
    if kind.shape[axis] != 0
  ]
  return concatenated(builder, parts, axis, shape)


def stack(builder: Builder, operation: Operation, inputs: list[Array]) -> Array:
  """Concat along a new axis."""
  axis, shape = operation.params['axis'], operation.result.shape
  one = (*shape[:axis], 1, *shape[axis + 1 :])
  parts = [
    builder.node('Unsqueeze', x, numbers([axis]), shape=one)
    for x in _whole(builder, operation, inputs)
  ]
  return builder.node('Concat', *parts, axis=axis, shape=shape)


def split(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> list[Array]:
  """A Slice for each part of an array that is cut along an axis."""
  (x,), axis = _whole(builder, operation, inputs), operation.params['axis']
  ends = np.cumsum([0, *operation.params['sizes']])
  return [
    builder.node(
      'Slice', x, *(numbers([n]) for n in (start, end, axis)), shape=kind.shape
    )
    for start, end, kind in zip(
      ends[:-1], ends[1:], operation.results, strict=True
    )
  ]


def product(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  """MatMul: axes in the order batch, other, summed; batch, summed, other."""
  dimensions = operation.params['dimension_numbers']
  (summed, batches), ordered = dimensions, []
  for i, x in enumerate(_whole(builder, operation, inputs)):
    known = *batches[i], *summed[i]
    other = [axis for axis in range(len(x.shape)) if axis not in known]
    if len(summed[i]) != 1 or (len(other) != 1 and (batches[i] or i)):
      raise NoOperator(f'dot_general of {dimensions}')
    inner = [*summed[i], *other] if i else [*other, *summed[i]]
    ordered.append(_ordered(builder, x, [*batches[i], *inner]))
  if any(kind.dtype == jnp.bfloat16 for kind in operation.given):
    # Sums are float32, and so are the products here.
    ordered = [builder.cast(x, np.float32) for x in ordered]
  return builder.node('MatMul', *ordered, shape=operation.result.shape)


def gather(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  """Gather along one axis, or Slice where it is a slice from a constant on."""
  (x, indices), params = _whole(builder, operation, inputs), operation.params
  dimensions, given = params['dimension_numbers'], tuple(x.shape)
  out, axes = operation.result.shape, list(dimensions.start_index_map)
  collapsed, sizes = dimensions.collapsed_slice_dims, params['slice_sizes']
  if (
    not collapsed and len(out) == len(given) and isinstance(indices, np.ndarray)
  ):
    most = [given[axis] - sizes[axis] for axis in axes]
    starts = indices.clip(0, most)
    ends = starts + [sizes[axis] for axis in axes]
    cut = (numbers(values) for values in (starts, ends, axes))
    return builder.node('Slice', x, *cut, shape=out)
  batch = operation.given[1].shape[:-1]
  new = [a for a in range(len(out)) if a not in dimensions.offset_dims]
  if (
    len(axes) != 1
    or list(collapsed) != axes
    or dimensions.operand_batching_dims
    or any(sizes[a] != n for a, n in enumerate(given) if a not in axes)
    or new != list(range(axes[0], axes[0] + len(batch)))
  ):
    raise NoOperator(f'gather of {dimensions}')
  if isinstance(indices, np.ndarray):
    indices = indices[..., 0]
    if len(given) == 2 and axes == [1] and indices.ndim == 1:
      return gathered(x, indices.clip(0, given[1] - 1), out)
  else:
    indices = builder.node('Squeeze', indices, numbers([-1]), shape=batch)
  return _read(builder, operation, x, indices, axes[0])


def _read(
  builder: Builder, operation: Operation, x: Array, indices: Array, axis: int
) -> Array:
  """Gather, where indices that are out of range mean what the mode says."""
  mode, out = operation.params['mode'], operation.result.shape
  if mode == lax.GatherScatterMode.PROMISE_IN_BOUNDS:
    return builder.node('Gather', x, indices, axis=axis, shape=out)
  kind = operation.given[1].dtype
  ends = np.array(0, kind), np.array(x.shape[axis] - 1, kind)
  within = builder.node('Min', builder.node('Max', indices, ends[0]), ends[1])
  found = builder.node('Gather', x, within, axis=axis, shape=out)
  if mode == lax.GatherScatterMode.CLIP:
    return found
  there = builder.node('Equal', within, indices)
  behind = len(x.shape) - axis - 1
  if behind:
    new = numbers(range(-behind, 0))
    shape = *there.shape, *(1,) * behind
    there = builder.node('Unsqueeze', there, new, shape=shape)
  fill, kind = operation.params['fill_value'], operation.result.dtype
  if fill is None:
    fill = np.nan if jnp.issubdtype(kind, jnp.inexact) else 0
  return builder.node('Where', there, found, np.array(fill, kind), shape=out)
