"""Products of codes in graphs: equal to those of JAX, and fast ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.graph.builder import Builder
from dlrm_jax.models.int8 import Codes, grid_between, grid_of, product_of_codes
from dlrm_jax.scoring.engine import has_vnni
from tests.graph import graphs

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(1, 1, (40, 30)).astype(np.float32)


def kernel_of(inputs, outputs):
  codes = RANDOM.integers(-127, 128, (inputs, outputs)).astype(np.int8)
  scale = RANDOM.uniform(0.001, 0.002, outputs).astype(np.float32)
  return codes, scale, np.float32(codes.sum(0) * scale)


def bias_of(outputs):
  return RANDOM.normal(size=outputs).astype(np.float32)


def layers_of(*widths):
  """Kernels, limits of inputs, and biases."""
  pairs = list(itertools.pairwise(widths))
  limits = np.float32([-1.5, 3]), *(len(widths) - 2) * [np.float32([0, 4])]
  return [
    (kernel_of(*pair), limit, bias_of(pair[1]))
    for pair, limit in zip(pairs, limits, strict=True)
  ]


def mlp(layers, batch, by_example=False):
  """Layers with ReLU between them."""
  x = batch['x']
  for number, (kernel, limits, bias) in enumerate(layers):
    grid = grid_of(x) if by_example else grid_between(*limits)
    y = product_of_codes(x, Codes(*map(jnp.asarray, kernel)), grid) + bias[None]
    x = y if number == len(layers) - 1 else jax.nn.relu(y)
  return x


def errors(function, constants, batch, builder=None):
  """Differences of a graph and JAX, over the deviation of the results."""
  found = graphs.run(graphs.model(function, constants, batch, builder), batch)
  wanted = np.asarray(jax.jit(function)(constants, batch))
  return np.abs(found - wanted) / wanted.std()


needs_vnni = pytest.mark.skipif(
  not has_vnni(), reason='this processor cuts off products of signed codes'
)


@pytest.mark.parametrize(
  'signed', [pytest.param(True, marks=needs_vnni), False]
)
@pytest.mark.parametrize('by_example', [True, False])
def test_layers_are_equal_to_rounding(signed, by_example):
  layers = layers_of(30, 16, 8, 3)
  found = errors(
    lambda *x: mlp(*x, by_example=by_example),
    layers,
    {'x': X},
    Builder(signed=signed),
  )
  # A code is another one where an input is between two.
  assert np.median(found) < 1e-3
  assert found.max() < 0.05


@needs_vnni
def test_codes_of_either_sign_are_the_same_product():
  layers, batch = layers_of(30, 16, 8, 3), {'x': X}
  first, second = (
    graphs.run(graphs.model(mlp, layers, batch, Builder(signed=signed)), batch)
    for signed in (True, False)
  )
  np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize('signed', [True, False])
def test_layers_of_one_grid_become_one_operator_each(tmp_path, signed):
  made = graphs.model(
    mlp, layers_of(30, 16, 8, 3), {'x': X}, Builder(signed=signed)
  )
  assert graphs.operators(made, tmp_path) == ['QuantizeLinear', *3 * ['QGemm']]


def test_relu_before_other_things_is_no_product_of_floats(tmp_path):
  def function(layers, batch):
    first, second = layers
    x = jax.nn.relu(mlp([first], batch))
    beside = jnp.concatenate([x, batch['x'] - 3], 1)  # its grid has less than 0
    return mlp([second], {'x': beside})

  first, second = layers_of(30, 16, 5)
  wide = kernel_of(46, 5), np.float32([-5, 5]), second[2]
  batch = {'x': X}
  made = graphs.model(function, [first, wide], batch)
  assert not {'Gemm', 'FusedGemm', 'MatMul', 'DequantizeLinear'} & set(
    graphs.operators(made, tmp_path)
  )
  assert np.median(errors(function, [first, wide], batch)) < 1e-3


def test_a_product_without_a_bias(tmp_path):
  def function(layer, batch):
    kernel, limits, _ = layer
    y = product_of_codes(batch['x'], Codes(*kernel), grid_between(*limits))
    return y * batch['x'][:, :5] + y

  (layer,) = layers_of(30, 5)
  batch = {'x': X}
  assert errors(function, layer, batch).max() < 1e-4
  found = graphs.operators(graphs.model(function, layer, batch), tmp_path)
  assert 'QGemm' in found


def test_columns_are_multiplied_without_being_gathered(tmp_path):
  columns = np.array([7, 0, 29, 4, 5, 6, 11, 12, 13, 20, 21])

  def function(layers, batch):
    x = batch['x'] * batch['x']
    beside = jnp.concatenate([batch['x'][:, :3], x[:, columns]], 1)
    return mlp(layers, {'x': beside})

  layers, batch = layers_of(14, 6, 2), {'x': X}
  made = graphs.model(function, layers, batch)
  assert 'Gather' not in [node.op_type for node in made.graph.node]
  assert np.median(errors(function, layers, batch)) < 1e-3


@pytest.mark.parametrize('columns', [[3, 3, 5], [29]])
def test_columns_that_are_few_or_repeated_are_gathered(columns):
  def function(layers, batch):
    return mlp(layers, {'x': (batch['x'] * 1.5)[:, np.array(columns)]})

  layers, batch = layers_of(len(columns), 4), {'x': X}
  made = graphs.model(function, layers, batch)
  assert 'Gather' in [node.op_type for node in made.graph.node]
  assert errors(function, layers, batch).max() < 1e-4


def test_biases_of_all_sizes_are_kept():
  kernel, limits, bias = layers_of(30, 6)[0]
  codes, scale, sums = (x.copy() for x in kernel)
  codes[:, 0] = sums[0] = scale[0] = 0  # no weights
  scale[1], sums[1] = 1e-12, codes[:, 1].sum() * 1e-12  # tiny ones
  bias[2] = 0
  for large in (1.0, 1e8):
    bias[3] = large
    layer = (codes, scale, sums), limits, bias
    found = graphs.run(graphs.model(mlp, [layer], {'x': X}), {'x': X})
    wanted = np.asarray(jax.jit(mlp)([layer], {'x': X}))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_sums_of_very_many_inputs_fit():
  kernel, _, bias = layers_of(40_000, 2)[0]
  kernel[0][:] = 127
  layer = kernel, np.float32([0, 1]), bias
  x = np.float32([[1], [0.5], [0.1]]) * np.ones((3, 40_000), np.float32)
  assert errors(mlp, [layer], {'x': x}).max() < 1e-4
