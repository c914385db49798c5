"""Operations of the matrix products of a compiled step.

`flops` of JAX's `cost_analysis()` has the body of every loop once; the products
of a step in micro-batches are in a loop.
"""

import math
import re

import numpy as np

from dlrm_jax.plan.program import Computation, Operation, Program, dims


def _window(rest: str, field: str, axes: int, default: str) -> list[str]:
  """A field of a convolution's window, for each of its axes."""
  found = re.search(rf'window=\{{[^}}]*\b{field}=([\dx_-]+)', rest)
  return found.group(1).split('x') if found else [default] * axes


def _places(
  operand: int, kernel: int, out: int, stride: int, pad: int, spread: int
) -> int:
  """Pairs of a window's place and a value of the operand within it.

  Not counted are padding and what lies between values that are spread.

  Args:
    operand: number of values along the axis.
    kernel: size of the window.
    out: number of places of the window.
    stride: distance of the places.
    pad: padding before the first value.
    spread: distance of the values.

  >>> _places(4, 4, 4, 3, 0, 4)  # a batch of products: the diagonal
  4
  """
  at = np.arange(operand) * spread + pad
  last = np.minimum(at // stride, out - 1)
  first = np.maximum(-((kernel - 1 - at) // stride), 0)
  return int(np.maximum(last - first + 1, 0).sum())


def _convolution(body: Computation, operation: Operation) -> int:
  """Operations of a convolution, which matrix products of TPUs are."""
  rest = operation.rest
  ((left, right, result),) = re.findall(r'dim_labels=(\w+)_(\w+)->(\w+)', rest)
  shapes = [body[name].shape for name in operation.operands[:2]]
  lhs = dict(zip(left, dims(shapes[0]), strict=True))
  rhs = dict(zip(right, dims(shapes[1]), strict=True))
  out = dict(zip(result, dims(operation.shape), strict=True))
  axes = [axis for axis in left if axis.isdigit()]
  strides = _window(rest, 'stride', len(axes), '1')
  pads = _window(rest, 'pad', len(axes), '0_0')
  spreads = _window(rest, 'lhs_dilate', len(axes), '1')
  count = 2 * out['b'] * out['f'] * rhs['i']
  for axis, stride, pad, spread in zip(
    axes, strides, pads, spreads, strict=True
  ):
    count *= _places(
      *(lhs[axis], rhs[axis], out[axis], int(stride)),
      *(int(pad.split('_')[0]), int(spread)),
    )
  return count


def _product(body: Computation, operation: Operation) -> int:
  """Operations of a matrix product; 0 for anything else."""
  if operation.opcode == 'convolution':
    return _convolution(body, operation)
  if operation.opcode != 'dot':
    return 0
  (axes,) = re.findall(r'lhs_contracting_dims=\{([\d,]*)\}', operation.rest)
  lhs = dims(body[operation.operands[0]].shape)
  summed = math.prod(lhs[int(axis)] for axis in axes.split(',') if axis)
  return 2 * math.prod(dims(operation.shape)) * summed


class _Products:
  """Operations of the products of a program."""

  def __init__(self, program: Program, loops: bool) -> None:
    self._program, self._loops = program, loops

  def of_computation(self, name: str) -> int:
    """Operations of a computation, and of those that it calls."""
    body = self._program.computations[name]
    return sum(_product(body, x) + self._of_called(x) for x in body.values())

  def _of_called(self, operation: Operation) -> int:
    if operation.opcode == 'while':
      if operation.overflows and self._loops:
        return 0
      trips = self._program.trips(operation) if self._loops else 1
      return trips * self.of_computation(operation.body)
    if operation.opcode == 'conditional':
      return max(self.of_computation(name) for name in operation.branches)
    if operation.opcode in ('fusion', 'call', 'async-start'):
      return sum(self.of_computation(name) for name in operation.called)
    return 0


def products(program: Program, loops: bool = True) -> int:
  """Operations of the matrix products of a module, two for each summand.

  Args:
    program: a compiled module.
    loops: whether the body of a loop counts as often as it runs, or once.
  """
  return _Products(program, loops).of_computation(program.entry)
