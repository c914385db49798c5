"""Rewrites a traced function into operations that can be converted.

jax2onnx converts no remainder of integers whose batch is symbolic, and no
product of bfloat16 that is summed in float32. Other operations give the same
results: to the bit, but for the order of the sums of such products.
"""

from collections.abc import Callable, Sequence
from typing import Any

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
    x, y = inputs
    return [lax.sub(x, lax.mul(lax.div(x, y), y))]
  if name == 'dot_general' and avals[0].dtype == jnp.bfloat16:
    inputs = [x.astype(jnp.float32) for x in inputs]
  found = equation.primitive.bind(*inputs, **parameters)
  return found if equation.primitive.multiple_results else [found]
