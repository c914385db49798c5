"""Layers whose products are of codes of 8 bits."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dlrm_jax.build.data import open_data
from dlrm_jax.build.network import MODELS, build_model
from dlrm_jax.build.run import build_run
from dlrm_jax.config.unused import unused
from dlrm_jax.configs import default
from dlrm_jax.convert.program import common_misfit
from dlrm_jax.errors import InputError
from dlrm_jax.models.dcn import DCN
from dlrm_jax.models.int8 import (
  MOST_INPUTS,
  Codes,
  Int8,
  grid_between,
  grid_of,
  product_of_codes,
)
from dlrm_jax.models.mlp import MLP, Dense
from dlrm_jax.plan import chips
from tests import family
from tests.absent_chips import needs_compiler
from tests.models.test_product import products_of


def kernel_of(codes, scale):
  """A kernel of integers [in, out] and a number for each output."""
  codes, scale = np.int8(codes), np.float32(scale)
  sums = np.float32(codes.sum(0, dtype=np.int64) * scale)
  return Codes(*map(jnp.asarray, (codes, scale, sums)))


def random_kernel(inputs, outputs):
  random = np.random.default_rng(inputs)
  codes = random.integers(-127, 128, (inputs, outputs))
  return kernel_of(codes, random.uniform(0.001, 0.01, outputs))


def expected(x, kernel, low, high):
  """The product in float64, of numbers that have 255 values each."""
  x, low, high = (np.float64(a) for a in (x, low, high))
  step = np.maximum(high - low, 1e-30) / 254
  middle = (high + low) / 2
  codes = np.clip(np.rint((x - middle) / step), -127, 127)
  weights = np.float64(kernel.codes) * np.float64(kernel.scale)
  return (middle + step * codes) @ weights


@pytest.mark.parametrize('shape', [(5, 3), (64, 16), (367, 1), (1, 7)])
@pytest.mark.parametrize('center', [-3, 0, 0.4, 100])
def test_an_input_is_one_of_255_numbers_within_the_limits_of_its_example(
  shape, center
):
  random, kernel = np.random.default_rng(0), random_kernel(*shape)
  x = np.float32(random.normal(center, 1, (9, shape[0])))
  x *= np.float32(10.0 ** random.integers(-9, 9, (9, 1)))  # all sizes
  found = jax.jit(product_of_codes)(x, kernel, grid_of(jnp.asarray(x)))
  wanted = expected(x, kernel, x.min(1)[:, None], x.max(1)[:, None])
  assert found.dtype == jnp.float32
  # A code more or less where an input is near the middle of two.
  step = (x.max(1) - x.min(1)) / 254
  weights = np.abs(np.float64(kernel.codes) * np.float64(kernel.scale))
  one_code = step[:, None] * weights.max(0)
  near = np.abs(x).max(1)[:, None] * weights.sum(0) * 1e-6
  assert (np.abs(found - wanted) <= 2.1 * one_code + near).all()
  exact = x @ (np.float64(kernel.codes) * np.float64(kernel.scale))
  most = step[:, None] / 2 * weights.sum(0)
  assert (np.abs(found - exact) <= most * 1.001 + near).all()


def test_products_of_codes_are_exact():
  kernel = kernel_of([[127, -127], [-127, -127], [127, 1]], [1, 1])
  x = jnp.array([[127.0, -127.0, 127.0], [-127.0, 127.0, 0.0]])
  found = product_of_codes(x, kernel, grid_of(x))
  assert found.tolist() == [[48387, 127], [-32258, 0]]


def test_equal_inputs_are_exact():
  kernel = random_kernel(6, 4)
  x = jnp.array([[0.0] * 6, [1e-30] * 6, [-7.3] * 6])
  found = product_of_codes(x, kernel, grid_of(x))
  weights = np.float64(kernel.codes) * np.float64(kernel.scale)
  wanted = np.float64(x) @ weights
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_what_is_not_finite_stays_in_its_example():
  kernel = random_kernel(3, 2)
  x = jnp.array([[1.0, jnp.nan, 2.0], [1.0, jnp.inf, 2.0], [1.0, 5.0, 2.0]])
  found = np.asarray(product_of_codes(x, kernel, grid_of(x)))
  assert not np.isfinite(found[:2]).any()
  alone = product_of_codes(x[2:], kernel, grid_of(x[2:]))
  np.testing.assert_array_equal(found[2:], alone)


def test_inputs_beyond_the_grid_of_a_layer_are_its_ends():
  kernel = random_kernel(3, 2)
  grid = grid_between(jnp.float32(-1), jnp.float32(3))
  x = jnp.array([[-9.0, 1.0, 9.0], [-1.01, 1.0, 3.01]])
  beyond, at = product_of_codes(x, kernel, grid)
  np.testing.assert_array_equal(beyond, at)


@pytest.mark.parametrize(
  ('low', 'high'), [(-1, 3), (0, 5), (2, 5), (-0.7, 0), (-3, -2), (0, 0)]
)
def test_zero_is_on_the_grid_of_a_layer_and_its_limits_nearly(low, high):
  middle, step = grid_between(jnp.float32(low), jnp.float32(high))
  low, high = min(low, 0), max(high, 0)
  zero = round(float(-middle / step))
  np.testing.assert_allclose(-zero * step, middle, rtol=1e-6)
  assert -128 <= zero <= 127
  np.testing.assert_allclose(255 * step, high - low, rtol=1e-6, atol=1e-30)
  for limit, code in (low, -128), (high, 127):
    assert abs(middle + code * step - limit) <= 0.501 * step + 1e-30
  kernel = random_kernel(3, 2)
  x = jnp.zeros((1, 3))
  grid = grid_between(jnp.float32(low), jnp.float32(high))
  found = product_of_codes(x, kernel, grid)
  np.testing.assert_allclose(found, 0, atol=1e-30 + float(1e-4 * step))


def test_sums_of_the_most_inputs_fit():
  codes = np.full((MOST_INPUTS, 2), 127)
  codes[:, 1] *= -1
  x = jnp.ones((1, MOST_INPUTS))
  for sign in 1, -1:  # of inputs
    grid = grid_between(*jnp.sort(jnp.array([0.0, sign])))
    found = product_of_codes(sign * x, kernel_of(codes, [1, 1]), grid)
    most = 127 * MOST_INPUTS * sign
    np.testing.assert_allclose(found, [[most, -most]], rtol=1e-6)


def test_more_inputs_are_refused():
  dense, x = Dense(2, Int8()), jnp.zeros((1, MOST_INPUTS + 1))
  with pytest.raises(InputError, match='132,105 inputs; expected at most 132,'):
    jax.eval_shape(lambda: dense.init(jax.random.key(0), x))


def test_outliers_are_exact_and_beyond_all_limits():
  layer = Dense(2, Int8(outliers=2))
  weights = np.float32([[0.5, -1], [2, 3], [1, 1], [-1, 0.25]])
  kernel = kernel_of([[127, -127], [0, 0], [127, 64], [0, 0]], [0.01, 0.02])
  params = {
    'kernel': kernel.codes,
    'kernel_scale': kernel.scale,
    'kernel_sums': kernel.sums,
    'kernel_inputs': jnp.array([1, 3], jnp.int32),
    'kernel_exact': jnp.asarray(weights[[1, 3]]),
    'bias': jnp.array([10.0, 20.0]),
  }
  x = np.float32([[0.1, 1e6, 0.3, -1e7], [0.1, 0, 0.3, 0]])
  far, near = np.asarray(layer.apply({'params': params}, x))
  np.testing.assert_allclose(
    far - x[0, [1, 3]] @ weights[[1, 3]], near, rtol=0, atol=4
  )
  coded = expected(x[1:], kernel, 0, 0.3)[0] + [10, 20]
  np.testing.assert_allclose(near, coded, rtol=1e-5)


def test_outliers_of_a_layer_with_fewer_inputs_are_all_of_them():
  params = jax.eval_shape(
    lambda: Dense(2, Int8(outliers=9)).init(jax.random.key(0), jnp.ones((1, 4)))
  )
  shapes = jax.tree.map(lambda x: x.shape, params['params'])
  assert shapes['kernel_inputs'], shapes['kernel_exact'] == ((4,), (4, 2))


def int8_config(name, **fields):
  config = family.config_of(name)
  config.model.compute_dtype = 'int8'
  config.model.update(fields)
  return config


ENDS = '_scale', '_sums', '_range', '_inputs', '_exact'


@pytest.mark.parametrize('name', MODELS)
def test_kernels_of_every_model_are_codes(name):
  labels = 2 if name in family.OF_TWO_LABELS else 1
  fields = {'activations': 'calibrated', 'outliers': 2}
  before, after = (
    shapes_of(name, build_model(config, labels))
    for config in (family.config_of(name), int8_config(name, **fields))
  )
  # The linear part of a model sees what the user gave, as it is.
  kernels = [
    x
    for x, like in before.items()
    if len(like.shape) == 2 and 'linear' not in x and x != ('dense_vectors',)
  ]
  codes = [x for x, like in after.items() if like.dtype == jnp.int8]
  assert set(codes) == set(kernels)
  assert {x: after[x].shape for x in before} == {
    x: like.shape for x, like in before.items()
  }
  added = {(*path, f'{x}{end}') for *path, x in codes for end in ENDS}
  assert after.keys() - before.keys() == added
  assert bool(codes) == (name not in {'lr', 'fm', 'mf'})


def shapes_of(name, model):
  """The parameters of a model of three dense features, by path."""
  vectors = {k: jnp.ones((2, 2, n)) for k, n in model.roles(4).items()}
  dense = jnp.ones((2, 0 if name in family.WITHOUT_DENSE else 3))
  init = functools.partial(model.init, jax.random.key(0))
  return flatten_dict(jax.eval_shape(init, dense, vectors)['params'])


def test_such_layers_are_not_trained():
  config = int8_config('dlrm')
  config.data.kind = 'synthetic'
  with pytest.raises(InputError, match=r'int8 .* python -m dlrm_jax.quantize'):
    build_run(config, open_data(config), Path('absent'))


def test_other_programs_have_no_such_layers():
  task = family.task_of('dlrm', {'model.compute_dtype': 'int8'})
  assert common_misfit(task.network).startswith('model.compute_dtype is int8')


def test_fields_of_int8_have_no_effect_on_floats():
  defaults = default.get_config().to_dict()
  for dtype, count in ('int8', 0), ('bfloat16', 2):
    fields = {'activations': 'calibrated', 'outliers': 2}
    config = int8_config('dlrm', **fields)
    config.model.compute_dtype = dtype
    found = [x for x in unused(config.to_dict(), defaults) if 'int8' in x.why]
    assert len(found) == count


MODELS_OF_PRODUCTS = {
  'mlp': (MLP((32, 8, 4), False, Int8()), lambda x: (x,)),
  'calibrated': (MLP((32, 8, 4), False, Int8(True)), lambda x: (x,)),
  'dcn': (
    DCN((16, 8), (16,), Int8(), outputs=2, rank=3),
    lambda x: (x, {'vectors': jnp.zeros((len(x), 3, 8))}),
  ),
}


def compiled(name, sharding=None):
  """The compiled program of a model, as text, for a batch of 64."""
  model, inputs_of = MODELS_OF_PRODUCTS[name]
  inputs = jax.eval_shape(lambda: inputs_of(jnp.zeros((64, 24))))
  init = functools.partial(model.init, jax.random.key(0))
  given = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    (jax.eval_shape(init, *inputs), *inputs),
  )
  return jax.jit(model.apply).lower(*given).compile().as_text()


@pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='reads the program of a CPU'
)
@pytest.mark.parametrize('name', MODELS_OF_PRODUCTS)
def test_products_on_a_cpu_are_of_integers(name):
  text = compiled(name)
  # XLA widens the codes of narrow products.
  assert set(products_of(text)) <= {('s8', 's8'), ('s32', 's32')}
  assert set(re.findall(r'= (\w+)\[[^=]* dot\(', text)) == {'s32'}


@needs_compiler
@pytest.mark.parametrize('name', MODELS_OF_PRODUCTS)
def test_products_on_a_tpu_are_of_codes(name):
  chip = jax.sharding.SingleDeviceSharding(chips.find_devices('v5e:1x1')[0])
  text = compiled(name, chip)
  types = dict(re.findall(r'%([\w.-]+) = (\w+)\[', text))
  found = re.findall(
    r'= (\w+)\[[^=]* convolution\(%([\w.-]+), %([\w.-]+)', text
  )
  assert {(types[a], types[b], y) for y, a, b in found} == {('s8', 's8', 's32')}
  assert ' dot(' not in text
