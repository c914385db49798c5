"""Products of a batch and a kernel of mostly zeros."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from dlrm_jax import native
from dlrm_jax.models.mlp import Dense
from dlrm_jax.models.sparse import Form, Sparse, packed, sparse_product
from dlrm_jax.optim.block import Block
from dlrm_jax.optim.pruning import Pruning, pruned

IN_C = [form for form in Form if form is not Form.SMALLER]
needs_c = pytest.mark.skipif(
  not native.in_use(), reason=f'native kernels: {native.library().why_not}'
)


def forms():
  """Those that are there."""
  return [*Form] if native.in_use() else [Form.SMALLER]


def kernel_of(shape, sparsity, block):
  kernel = np.random.default_rng(0).normal(size=shape)
  pruning = Pruning(sparsity, block)
  return np.asarray(pruned(jnp.asarray(kernel, jnp.float32), pruning))


def assert_product(kernel, examples, form):
  x = np.random.default_rng(1).normal(size=(examples, len(kernel)))
  x = np.float32(x)
  pattern, weights = packed(kernel, form)
  found = jax.jit(functools.partial(sparse_product, pattern=pattern))(
    jnp.asarray(x), jnp.asarray(weights)
  )
  assert found.shape == (examples, kernel.shape[1])
  np.testing.assert_allclose(
    found, np.float64(x) @ kernel, rtol=1e-4, atol=1e-4
  )


@settings(max_examples=15)
@given(
  shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
  block=st.tuples(st.integers(1, 40), st.integers(1, 40)),
  sparsity=st.floats(0, 0.99),
  examples=st.integers(0, 80),
  form=st.sampled_from(forms()),
)
def test_products_are_those_of_the_kernel_with_its_zeros(
  shape, block, sparsity, examples, form
):
  kernel = kernel_of(shape, sparsity, Block(*block))
  assert_product(kernel, examples, form)


@pytest.mark.parametrize('form', forms())
@pytest.mark.parametrize('examples', [1, 7, 64, 300])
def test_products_of_a_layer_that_several_threads_share(form, examples):
  assert_product(kernel_of((367, 130), 0.8, Block(1, 16)), examples, form)


@pytest.mark.parametrize('form', forms())
@pytest.mark.parametrize('outputs', [1, 16, 21])
def test_a_layer_of_zeros_gives_zeros(form, outputs):
  pattern, weights = packed(np.zeros((5, outputs), np.float32), form)
  found = sparse_product(jnp.ones((9, 5)), jnp.asarray(weights), pattern)
  np.testing.assert_array_equal(found, np.zeros((9, outputs)))


def test_what_is_kept_is_what_is_not_zero():
  kernel = np.zeros((4, 40), np.float32)
  kernel[2, [0, 15, 39]] = 1, 2, 3
  sizes = {form: packed(kernel, form)[1].shape for form in Form}
  assert sizes == {
    Form.SINGLES: (3,),
    Form.STRIPS: (2, 16),  # outputs 0 to 15, and 32 to 39
    Form.SMALLER: (1, 3),
  }


@needs_c
def test_patterns_are_constants_of_the_program():
  pattern, weights = packed(kernel_of((20, 32), 0.5, Block(1, 16)), Form.STRIPS)
  product = jax.jit(functools.partial(sparse_product, pattern=pattern))
  program = product.lower(jnp.ones((3, 20)), jnp.asarray(weights))
  head = program.as_text().split('@main(')[1].split('->')[0]
  assert head.count('tensor<') == 2  # a batch and weights, no places
  assert 'dlrm_jax_sparse' in program.compile().as_text()


@pytest.mark.parametrize('form', forms())
def test_a_layer_looks_its_kernel_up_by_name(form):
  kernel = kernel_of((6, 32), 0.5, Block(1, 16))
  pattern, weights = packed(kernel, form)
  bias = jnp.arange(32.0)
  x = jnp.ones((2, 6))
  whole = Dense(32).apply({'params': {'kernel': kernel, 'bias': bias}}, x)
  layer = Dense(32, Sparse(jnp.float32, {'kernel': pattern}))
  params = {'kernel': jnp.asarray(weights), 'bias': bias}
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x)['params']
  assert shapes['kernel'].shape == weights.shape
  found = layer.apply({'params': params}, x)
  np.testing.assert_allclose(found, whole, rtol=1e-6)
  other = Dense(32, Sparse(jnp.float32, {'top/kernel': pattern}))
  same = other.apply({'params': {'kernel': kernel, 'bias': bias}}, x)
  np.testing.assert_array_equal(same, whole)
