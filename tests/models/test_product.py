"""Products of layers: their gradients, and how CPUs compute them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.models import product as products
from dlrm_jax.models.product import product

SHAPES = [
  (64, 24, 16),  # 8 divides all
  (64, 16, 24),  # the wider operand is the other one
  (64, 13, 40),  # an odd number of features
  (5, 16, 7),  # 8 divides the width of the input alone
  (5, 7, 3),  # 8 divides nothing
  (64, 24, 1),  # a logit
  (1, 1, 1),
]
STEPS = {jnp.float32: 1e-6, jnp.bfloat16: 2**-8}


def of_operands(function, *operands):
  """The product, and gradients of a loss that is no sum of it."""

  def loss(*operands):
    y = function(*operands)
    return jnp.sum(jnp.sin(y)), y

  grads, y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(*operands)
  return y, *grads


@pytest.fixture(params=[True, False], ids=['bfloat16', 'no bfloat16'])
def has_bfloat16(request, monkeypatch):
  """Whether the processor is taken to have instructions for bfloat16."""
  monkeypatch.setattr(products, 'has_bfloat16', lambda: request.param)
  return request.param


@pytest.mark.parametrize('dtype', STEPS)
@pytest.mark.parametrize('shape', SHAPES)
def test_gradients_are_those_of_a_product(shape, dtype, has_bfloat16):
  batch, inner, outer = shape
  x, kernel = (
    jax.random.normal(jax.random.key(i), s) / inner**0.5
    for i, s in enumerate([(batch, inner), (inner, outer)])
  )
  got = of_operands(lambda x, w: product(x, w, dtype), x, kernel)
  want = of_operands(lambda x, w: jnp.dot(x, w, precision='highest'), x, kernel)
  for one, other in zip(got, want, strict=True):
    assert one.dtype == jnp.float32
    size = max(1, float(jnp.max(jnp.abs(other))))
    np.testing.assert_allclose(one, other, rtol=0, atol=8 * STEPS[dtype] * size)


def test_it_can_be_mapped():
  x = jax.random.normal(jax.random.key(0), (3, 8, 5))
  kernel = jax.random.normal(jax.random.key(1), (3, 5, 2))
  got = of_operands(jax.vmap(lambda x, w: product(x, w)), x, kernel)
  want = [of_operands(product, *pair) for pair in zip(x, kernel, strict=True)]
  for one, other in zip(got, zip(*want, strict=True), strict=True):
    np.testing.assert_allclose(one, jnp.stack(other), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='reads the program of a CPU'
)
def test_products_on_a_cpu_are_of_bfloat16_where_it_can(has_bfloat16):
  x = jnp.zeros((1024, 367))
  kernels = [jnp.zeros((367, 512)), jnp.zeros((512, 256))]

  def loss(x, kernels):
    for kernel in kernels:
      x = jax.nn.relu(product(x, kernel, jnp.bfloat16))
    return jnp.sum(x)

  text = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernels).compile().as_text()
  operands = products_of(text)
  assert len(operands) == 6
  assert set(operands) == {2 * ('bf16' if has_bfloat16 else 'f32',)}


@pytest.mark.parametrize(
  ('flags', 'has'),
  [({'avx2', 'avx512_bf16'}, True), ({'avx2'}, False), ({'bf16'}, True),
   (None, True)],
)  # fmt: skip
def test_flags_say_whether_there_is_bfloat16(flags, has, monkeypatch):
  monkeypatch.setattr(products.machine, 'cpu_flags', lambda: flags)
  assert products.has_bfloat16() is has


def products_of(text):
  """Types of the operands of all products of a compiled program."""
  types = dict(re.findall(r'%([\w.-]+) = (\w+)\[', text))
  types |= dict(re.findall(r'[(,] ?([\w.-]+): (\w+)\[', text))
  found = re.findall(r' dot\((.*?)\), ', text)
  return [
    tuple(types[name] for name in re.findall(r'%([\w.-]+)', names))
    for names in found
  ]
