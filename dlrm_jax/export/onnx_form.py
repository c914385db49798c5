"""Rewrites a traced function into operations that onnxruntime has.

onnxruntime multiplies, adds and divides int32, not uint32, on CPUs; it has no
products of bfloat16; and jax2onnx converts no remainder whose batch is
symbolic. The results are the same bits, but for sums of products, whose order
is another.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

_INLINED = 'jit', 'custom_jvp_call', 'custom_vjp_call'


def rewritten(traced: core.ClosedJaxpr) -> Callable[..., list[Any]]:
  """The function of a jaxpr, with other operations where it must have them."""
  return lambda *given: _evaluate(traced, given)


def _evaluate(traced: core.ClosedJaxpr, given: Sequence[Any]) -> list[Any]:
  jaxpr = traced.jaxpr
  values = dict(zip(jaxpr.constvars, traced.consts, strict=True))
  values |= zip(jaxpr.invars, given, strict=True)

  def value(x: Any) -> Any:
    return x.val if isinstance(x, core.Literal) else values[x]

  for equation in jaxpr.eqns:
    inputs = [value(x) for x in equation.invars]
    values |= zip(equation.outvars, _apply(equation, inputs), strict=True)
  return [value(x) for x in jaxpr.outvars]


def _apply(equation: core.JaxprEqn, inputs: Sequence[Any]) -> Sequence[Any]:
  """The results of one operation."""
  name, parameters = equation.primitive.name, equation.params
  if name in _INLINED:
    inner = parameters.get('jaxpr') or parameters['call_jaxpr']
    return _evaluate(inner, inputs)
  avals: list[Any] = [x.aval for x in equation.invars]
  if name == 'rem' and jnp.issubdtype(avals[0].dtype, jnp.integer):
    return [_remainder(*inputs)]
  if name in _OF_UNSIGNED and avals[0].dtype == jnp.uint32:
    return [_OF_UNSIGNED[name](*inputs)]
  if name == 'dot_general' and avals[0].dtype == jnp.bfloat16:
    inputs = [x.astype(jnp.float32) for x in inputs]
  found = equation.primitive.bind(*inputs, **parameters)
  return found if equation.primitive.multiple_results else [found]


def _signed(x: Any) -> jax.Array:
  """The same 32 bits as int32."""
  return lax.convert_element_type(x, jnp.int32)


def _unsigned(x: jax.Array) -> jax.Array:
  return lax.convert_element_type(x, jnp.uint32)


def _by_signed(
  operation: Callable[[Any, Any], jax.Array],
) -> Callable[[Any, Any], jax.Array]:
  """Of operations whose low 32 bits do not depend on the sign."""
  return lambda x, y: _unsigned(operation(_signed(x), _signed(y)))


def _quotient(x: Any, y: Any) -> jax.Array:
  """The quotient of uint32, by signed division; y below 2^31.

  Source: H. Warren, "Hacker's Delight", section 9-3.
  """
  whole, divisor = _signed(x), _signed(y)
  half = _signed(lax.shift_right_logical(x, jnp.full_like(x, 1)))
  near = lax.div(half, divisor) * 2
  rest = whole - near * divisor
  more = (rest < 0) | (rest >= divisor)
  return _unsigned(near + more.astype(jnp.int32))


_OF_UNSIGNED: dict[str, Callable[[Any, Any], jax.Array]] = {
  'add': _by_signed(lax.add),
  'sub': _by_signed(lax.sub),
  'mul': _by_signed(lax.mul),
  'div': _quotient,
}


def _remainder(x: Any, y: Any) -> jax.Array:
  """The remainder of a division that rounds to zero."""
  if x.dtype == jnp.uint32:
    product = _OF_UNSIGNED['mul'](_quotient(x, y), y)
    return _OF_UNSIGNED['sub'](x, product)
  return lax.sub(x, lax.mul(lax.div(x, y), y))
