"""Functions in the form that is converted to ONNX: the same results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.export.onnx_form import rewritten

INT32 = np.int32([0, 1, 2, 6, 7, 8, 2**31 - 1, -1, -2, -7, -8, -(2**31)])
UINT32 = np.uint32([0, 1, 6, 7, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1])


def primitives(jaxpr):
  """Names and dtypes of all operations, those of inner functions included."""
  for x in jaxpr.eqns:
    yield x.primitive.name, str(x.invars[0].aval.dtype)
    for inner in x.params.values():
      if hasattr(inner, 'jaxpr'):
        yield from primitives(inner.jaxpr)


def both(function, *given):
  """The results of a function and of its rewritten form, and what it uses."""
  form = rewritten(jax.make_jaxpr(function)(*given))
  used = set(primitives(jax.make_jaxpr(form)(*given).jaxpr))
  return np.asarray(function(*given)), np.asarray(form(*given)[0]), used


@pytest.mark.parametrize('divisor', [1, 2, 7, 1000, 2**31 - 1])
@pytest.mark.parametrize(
  'function',
  [jax.lax.rem, jax.lax.div, jnp.remainder, jnp.floor_divide],
  ids=lambda f: f.__name__,
)
def test_divisions_of_int32_are_those_of_jax(function, divisor):
  wanted, found, used = both(lambda x: function(x, jnp.int32(divisor)), INT32)
  np.testing.assert_array_equal(found, wanted)
  assert ('rem', 'int32') not in used


@pytest.mark.parametrize('divisor', [1, 7, 2**31 - 1])
def test_remainders_of_uint32_are_those_of_jax(divisor):
  wanted, found, used = both(lambda x: x % jnp.uint32(divisor), UINT32)
  np.testing.assert_array_equal(found, wanted)
  assert ('rem', 'uint32') not in used


def test_products_of_bfloat16_are_sums_of_rounded_numbers():
  x, y = (jax.random.normal(jax.random.key(i), (8, 8)) for i in range(2))

  def product(x, y):
    return jnp.dot(
      x.astype('bfloat16'), y.astype('bfloat16'), preferred_element_type='f4'
    )

  wanted, found, used = both(product, x, y)
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  assert np.abs(found - np.asarray(x @ y)).max() > 1e-3
  assert ('dot_general', 'bfloat16') not in used


def test_inner_functions_are_rewritten_too():
  def function(x):
    return jax.jit(lambda x: jax.nn.relu(x % jnp.int32(5)))(x)

  wanted, found, used = both(function, INT32)
  np.testing.assert_array_equal(found, wanted)
  assert not {'jit', 'custom_jvp_call', 'rem'} & {name for name, _ in used}
