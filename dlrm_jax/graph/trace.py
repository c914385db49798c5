"""A function of JAX as an ONNX graph, for any batch.

The function is traced, constants are computed, and each operation left becomes
operators by a rule of `operators`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import export
from jax.extend import core

from dlrm_jax.graph.axes import split
from dlrm_jax.graph.builder import (
  OPSET,
  Array,
  Builder,
  NoOperator,
  Operation,
  Port,
  Tensor,
)
from dlrm_jax.graph.codes import CodedProduct, product_of_codes
from dlrm_jax.graph.operators import RULES

if TYPE_CHECKING:
  from onnx import ModelProto

_IR_VERSION = 10  # that of OPSET
_PRODUCT = 'product_of_codes'
_INLINED = 'jit', 'pjit', 'closed_call', 'custom_jvp_call', 'custom_vjp_call'

BATCH = 'batch'
"""Name of the axis of any size."""

Inputs = Mapping[str, tuple[tuple[int, ...], Any]]
"""Shape of an example and dtype of each input, by name."""


def model_of(
  function: Callable[..., jax.Array],
  constants: Any,
  inputs: Inputs,
  output: str,
  builder: Builder,
) -> 'ModelProto':
  """The graph of a function of constants and of a batch.

  Args:
    function: (constants, arrays of a batch by name) -> f32[B, T].
    constants: a tree of NumPy arrays.
    inputs: the arrays of a batch.
    output: name of the output.
    builder: a new builder.

  Raises:
    NoOperator: there is no rule for an operation of the function.
  """
  from onnx import helper

  (batch,) = export.symbolic_shape(BATCH)
  like = {
    name: jax.ShapeDtypeStruct((batch, *shape), dtype)
    for name, (shape, dtype) in inputs.items()
  }
  traced = jax.make_jaxpr(function)(
    jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), constants),
    like,
  )
  tensors = {name: Tensor(name, x.shape) for name, x in like.items()}
  given = jax.tree.leaves((constants, dict(tensors)), is_leaf=_is_array)
  (result,) = _Converter(builder).results(traced, given)
  (made,) = traced.out_avals
  ports = [
    Port(name, x.dtype, (BATCH, *x.shape[1:]))
    for name, x in [*like.items(), (output, made)]
  ]
  graph = builder.graph(ports[:-1], ports[-1], result)
  return helper.make_model(
    graph,
    opset_imports=[helper.make_opsetid('', OPSET)],
    ir_version=_IR_VERSION,
    producer_name='dlrm_jax',
  )


def _is_array(x: Any) -> bool:
  return isinstance(x, np.ndarray | Tensor)


class _Converter:
  """Turns traced functions into operators of a graph."""

  def __init__(self, builder: Builder) -> None:
    self._builder = builder

  def results(
    self, traced: core.ClosedJaxpr, given: Sequence[Array]
  ) -> list[Array]:
    """The results of a traced function."""
    values: dict[core.Var, Array] = dict(
      zip(traced.jaxpr.constvars, map(np.asarray, traced.consts), strict=True)
    )
    values |= zip(traced.jaxpr.invars, given, strict=True)

    def value(x: Any) -> Array:
      if isinstance(x, core.Literal):
        kind: Any = x.aval
        return np.asarray(x.val, kind.dtype)
      return values[x]

    for equation in traced.jaxpr.eqns:
      found = self._apply(equation, [value(x) for x in equation.invars])
      values |= zip(equation.outvars, found, strict=True)
    return [value(x) for x in traced.jaxpr.outvars]

  def _apply(
    self, equation: core.JaxprEqn, inputs: list[Array]
  ) -> Sequence[Array]:
    """The results of one operation."""
    operation = _operation(equation)
    name, params = operation.name, operation.params
    if name == 'platform_index':
      return [np.array(_of_cpu(params['platforms']))]
    if name == 'cond' and isinstance(inputs[0], np.ndarray):
      return self.results(params['branches'][int(inputs[0])], inputs[1:])
    if params.get('name') == _PRODUCT:
      shape = operation.result.shape
      return [product_of_codes(self._builder, inputs, shape)]
    if name in _INLINED:
      return self.results(params.get('jaxpr') or params['call_jaxpr'], inputs)
    constants = [x for x in inputs if isinstance(x, np.ndarray)]
    if len(constants) == len(inputs) and _static(operation):
      return _computed(equation, constants)
    if name == 'split':
      return split(self._builder, operation, inputs)
    if name == 'add' and (found := self._biased(inputs)):
      return [found]
    if name not in RULES:
      raise NoOperator(f'the operation {name}')
    return [RULES[name](self._builder, operation, inputs)]

  def _biased(self, inputs: Sequence[Array]) -> Tensor | None:
    """The sum of a product of codes and a bias; None: it is another sum."""
    for x, bias in (inputs, inputs[::-1]):
      coded = isinstance(x, CodedProduct) and isinstance(bias, np.ndarray)
      if coded and bias.size == x.shape[-1]:
        return x.plus(self._builder, bias.reshape(-1))
    return None


def _operation(equation: core.JaxprEqn) -> Operation:
  given, results = (
    [x.aval for x in group] for group in (equation.invars, equation.outvars)
  )
  return Operation(equation.primitive.name, equation.params, given, results)


def _of_cpu(platforms: Sequence[tuple[str, ...] | None]) -> int:
  """The number of the branch of a CPU."""
  for number, names in enumerate(platforms):
    if names is None or 'cpu' in names:
      return number
  raise NoOperator('a function without a form for CPUs')


def _static(operation: Operation) -> bool:
  """Whether no size of its results depends on the batch."""
  sizes = [size for kind in operation.results for size in kind.shape]
  return all(isinstance(size, int) for size in sizes)


def _computed(
  equation: core.JaxprEqn, inputs: Sequence[np.ndarray]
) -> list[np.ndarray]:
  """The results of an operation of constants."""
  operation = _operation(equation)
  whole = [
    np.broadcast_to(x, kind.shape)
    for x, kind in zip(inputs, operation.given, strict=True)
  ]
  if operation.name == 'reshape':  # a view: tables may be large
    return [whole[0].reshape(operation.result.shape)]
  found = equation.primitive.bind(*whole, **equation.params)
  many = equation.primitive.multiple_results
  return [np.asarray(x) for x in (found if many else [found])]
