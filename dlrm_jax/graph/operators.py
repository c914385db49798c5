"""The operations of JAX as operators of ONNX: a rule for each.

A rule takes the builder, the operation and its inputs, and gives the result.
Inputs may be shorter than their types say, where they are broadcast.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from dlrm_jax.graph import axes
from dlrm_jax.graph.builder import Array, Builder, NoOperator, Operation
from dlrm_jax.graph.codes import CodedSum, Rectified

Rule = Callable[[Builder, Operation, list[Array]], Array]


def _operator(name: str, **more: Any) -> Rule:
  """One operator."""
  return lambda builder, operation, inputs: builder.node(name, *inputs, **more)


def _arithmetic(name: str, **more: Any) -> Rule:
  """One operator that onnxruntime has for signed numbers alone.

  u32 becomes s64, and of the result the lower half is kept.
  """

  def rule(
    builder: Builder, operation: Operation, inputs: list[Array]
  ) -> Array:
    if operation.given[0].dtype != np.uint32:
      return builder.node(name, *inputs, **more)
    wide = [builder.cast(x, np.int64) for x in inputs]
    made = builder.node(name, *wide, **more)
    if operation.result.dtype == np.uint32:
      return builder.cast(made, np.uint32)
    return made

  return rule


def _logical(of_bools: str, of_integers: str) -> Rule:
  """The operator of booleans, or that of the bits of integers."""

  def rule(
    builder: Builder, operation: Operation, inputs: list[Array]
  ) -> Array:
    booleans = operation.given[0].dtype == np.bool_
    return builder.node(of_bools if booleans else of_integers, *inputs)

  return rule


def _same(builder: Builder, operation: Operation, inputs: list[Array]) -> Array:
  return inputs[0]


def _convert(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  return builder.cast(inputs[0], operation.params['new_dtype'])


def _square(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  return builder.node('Mul', inputs[0], inputs[0])


def _power(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  power = np.array(operation.params['y'], operation.result.dtype)
  return builder.node('Pow', inputs[0], power)


def _rsqrt(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  return builder.node('Reciprocal', builder.node('Sqrt', inputs[0]))


def _log1p(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  return builder.node('Log', builder.node('Add', inputs[0], _ONE))


def _max(builder: Builder, operation: Operation, inputs: list[Array]) -> Array:
  """Max; of 0 and a float it is Relu, which runtimes fuse."""
  for x, least in (inputs, inputs[::-1]):
    zero = isinstance(least, np.ndarray) and not least.any()
    if zero and least.size == 1 and operation.result.dtype == np.float32:
      coded = isinstance(x, CodedSum)
      return Rectified(x) if coded else builder.node('Relu', x)
  return _LARGER(builder, operation, inputs)


def _unequal(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  return builder.node('Not', RULES['eq'](builder, operation, inputs))


def _finite(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  odd = [builder.node(name, inputs[0]) for name in ('IsNaN', 'IsInf')]
  return builder.node('Not', builder.node('Or', *odd))


def _select(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  which, *cases = inputs
  if operation.given[0].dtype != np.bool_:
    raise NoOperator('select_n by integers')
  return builder.node('Where', which, cases[1], cases[0])


def _clamp(
  builder: Builder, operation: Operation, inputs: list[Array]
) -> Array:
  least, x, most = inputs
  return builder.node('Min', builder.node('Max', x, least), most)


_ONE = np.array(1, np.float32)
_LARGER = _arithmetic('Max')

RULES: dict[str, Rule] = {
  'abs': _operator('Abs'),
  'add': _arithmetic('Add'),
  'and': _logical('And', 'BitwiseAnd'),
  'broadcast_in_dim': axes.broadcast,
  'clamp': _clamp,
  'concatenate': axes.concatenate,
  'convert_element_type': _convert,
  'copy': _same,
  'div': _arithmetic('Div'),
  'dot_general': axes.product,
  'eq': _arithmetic('Equal'),
  'exp': _operator('Exp'),
  'gather': axes.gather,
  'ge': _arithmetic('GreaterOrEqual'),
  'gt': _arithmetic('Greater'),
  'integer_pow': _power,
  'is_finite': _finite,
  'le': _arithmetic('LessOrEqual'),
  'log': _operator('Log'),
  'log1p': _log1p,
  'logistic': _operator('Sigmoid'),
  'lt': _arithmetic('Less'),
  'max': _max,
  'min': _arithmetic('Min'),
  'mul': _arithmetic('Mul'),
  'ne': _unequal,
  'neg': _operator('Neg'),
  'not': _logical('Not', 'BitwiseNot'),
  'or': _logical('Or', 'BitwiseOr'),
  'reduce_max': functools.partial(axes.reduce, 'ReduceMax'),
  'reduce_min': functools.partial(axes.reduce, 'ReduceMin'),
  'reduce_sum': functools.partial(axes.reduce, 'ReduceSum'),
  'rem': _arithmetic('Mod', fmod=1),
  'reshape': axes.reshape,
  'rsqrt': _rsqrt,
  'select_n': _select,
  'shift_right_logical': _operator('BitShift', direction='RIGHT'),
  'sign': _operator('Sign'),
  'slice': axes.slices,
  'sqrt': _operator('Sqrt'),
  'square': _square,
  'squeeze': axes.squeeze,
  'stack': axes.stack,
  'stop_gradient': _same,
  'sub': _arithmetic('Sub'),
  'tanh': _operator('Tanh'),
  'transpose': axes.transpose,
  'xor': _logical('Xor', 'BitwiseXor'),
}
"""The rules by name of the operation."""
