"""Layers of trained models as codes, and the limits of their inputs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import dlrm_jax
from dlrm_jax import sharding
from dlrm_jax.batch import Batch
from dlrm_jax.build.chosen import choose
from dlrm_jax.build.network import MODELS
from dlrm_jax.build.trained import trained
from dlrm_jax.build.written import write_workdir
from dlrm_jax.configs import default
from dlrm_jax.embedding.network import Layers
from dlrm_jax.errors import InputError
from dlrm_jax.quantization.layers import (
  Range,
  calibrate,
  quantize_layers,
)
from dlrm_jax.quantization.method import Method
from dlrm_jax.run import workdir
from dlrm_jax.scoring.engine import engine_of
from dlrm_jax.training.state import abstract_params, new_state
from tests import family, scored

LAYERED = sorted(set(MODELS) - {'lr', 'fm', 'mf'})
NO_OUTLIERS = np.zeros(0, np.int32)


def like_of(inputs, outputs, *ends):
  """The parameters of one int8 kernel, with such ends of names."""
  shapes = {
    '': ((inputs, outputs), jnp.int8),
    '_scale': ((outputs,), jnp.float32),
    '_sums': ((outputs,), jnp.float32),
    '_range': ((2,), jnp.float32),
    '_inputs': ((1,), jnp.int32),
    '_exact': ((1, outputs), jnp.float32),
  }
  wanted = '', '_scale', '_sums', *ends
  kernel = {f'kernel{x}': jax.ShapeDtypeStruct(*shapes[x]) for x in wanted}
  bias = jax.ShapeDtypeStruct((outputs,), jnp.float32)
  return {'model': {'top': {**kernel, 'bias': bias}}}


def params_of(kernel):
  kernel = np.float32(kernel)
  bias = np.arange(kernel.shape[1], dtype=np.float32)
  return {'model': {'top': {'kernel': kernel, 'bias': bias}}}


def test_weights_are_codes_times_the_scale_of_their_output():
  kernel = np.array([[127, 0, 2e-3], [-63.5, 0, -0.5e-3], [0.5, 0, 1e-3]])
  found = quantize_layers(params_of(kernel), like_of(3, 3))['model']['top']
  assert found['kernel'].dtype == np.int8
  # Ties go to the even code; a channel of zeros has no scale.
  assert found['kernel'].tolist() == [[127, 0, 127], [-64, 0, -32], [0, 0, 64]]
  np.testing.assert_array_equal(
    found['kernel_scale'], np.float32([1, 0, 2e-3 / 127])
  )
  sums = found['kernel'].sum(0) * found['kernel_scale']
  np.testing.assert_allclose(found['kernel_sums'], sums, rtol=1e-6)
  assert found['bias'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('size', [1e-45, 1e-39, 1e-20, 1, 1e35])
def test_weights_of_any_size_are_off_by_half_a_step(size):
  random = np.random.default_rng(0)
  kernel = np.float32(random.normal(size=(99, 9)) * size)
  found = quantize_layers(params_of(kernel), like_of(99, 9))['model']['top']
  scale = np.float64(found['kernel_scale'])
  error = np.abs(found['kernel'] * scale - kernel)
  step = np.float64(np.abs(kernel).max(0)) / 127
  least = 127 * 2.0**-149  # the smallest scale is the smallest float32
  assert (error <= step * (0.5 + 1e-5) + least).all()


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
  kernel = np.ones((4, 2))
  kernel[3, 1] = bad
  with pytest.raises(InputError, match=r'model/top/kernel: .*\[3, 1\] is -?'):
    quantize_layers(params_of(kernel), like_of(4, 2))


def test_what_a_model_needs_of_its_inputs_must_be_known():
  params, like = params_of(np.ones((4, 2))), like_of(4, 2, '_range')
  with pytest.raises(InputError, match=r'kernel_range needs .*=row'):
    quantize_layers(params, like)
  ranges = {'model/top/kernel': Range(-1.0, 2.5, NO_OUTLIERS)}
  found = quantize_layers(params, like, ranges)['model']['top']
  assert found['kernel_range'].tolist() == [-1, 2.5]


def test_weights_of_outliers_are_kept():
  kernel = np.float32([[1, 2], [300, -400], [-0.5, 1]])
  ranges = {'model/top/kernel': Range(0.0, 1.0, np.int32([1]))}
  like = like_of(3, 2, '_inputs', '_exact')
  found = quantize_layers(params_of(kernel), like, ranges)['model']['top']
  assert found['kernel_inputs'].tolist() == [1]
  np.testing.assert_array_equal(found['kernel_exact'], kernel[1:2])
  assert found['kernel'].tolist() == [[127, 127], [0, 0], [-64, 64]]


def int8_of(name, fields):
  return family.task_of(name, {'model.compute_dtype': 'int8', **fields})


def state_of(task):
  """A state whose layers and tables are not those of a start."""
  state = new_state(task, jax.random.key(5))
  params = scored.varied(jax.tree.map(lambda x: x * 0.3, state.params), 1)
  tables = jax.tree.map(lambda x: 20 * x, state.tables)
  return state.replace(params=params, tables=tables)


ENCODED = {
  'dlrm': {'tables.encoding': 'quotient_remainder', 'tables.combine': 'path'},
  'dcn': {'tables.encoding': 'mixed_dims', 'model.dcn.structure': 'parallel'},
  'deepfm': {'model.norm': 'batch'},
  'wide_deep': {'model.branches': 2},
}
"""Beside int8 layers there are those of encodings, which stay as they are."""


@pytest.mark.slow
@pytest.mark.parametrize('name', LAYERED)
def test_every_model_scores_nearly_as_before(name):
  pytest.importorskip('onnxruntime')
  fields = {'tables.threshold': 5, **ENCODED.get(name, {})}
  task, batch = family.task_of(name, fields), family.batch_of(name, 0)
  by_row, calibrated = (
    family.task_of(
      name,
      {'model.compute_dtype': 'int8', 'model.activations': word, **fields},
    )
    for word in ('row', 'calibrated')
  )
  with family.on(1):
    state, inputs = state_of(task), sharding.send(batch.inputs)
    arrays = state.layers, state.tables
    ranges = calibrate(task.network, *arrays, [batch], Method.MIN_MAX)
    before = np.asarray(jax.jit(task.network.outputs)(*arrays, inputs))
    for other in by_row, calibrated:
      params = quantize_layers(state.params, abstract_params(other), ranges)
      layers = Layers(params, state.statistics)
      score = jax.jit(other.network.outputs)
      by_engine = engine_of(other.network, layers, state.tables, jnp.asarray)
      assert 'by onnxruntime' in by_engine.words
      for found in score(layers, state.tables, inputs), by_engine.score(inputs):
        errors = np.asarray(found) - before
        errors = errors[batch.weights > 0]  # the others were not calibrated on
        assert 0 < np.sqrt(np.mean(errors**2)) < 0.1 * np.std(before)
  mine, theirs = flatten_dict(params), flatten_dict(state.params)
  assert mine.keys() >= theirs.keys()
  for path, x in theirs.items():
    if mine[path].dtype != np.int8:
      np.testing.assert_array_equal(mine[path], x)


def inputs_of(task, state, batches):
  """The inputs of all kernels of model `mlp`, in NumPy, by name."""
  found = {}
  params = jax.tree.map(np.asarray, state.params)['model']

  def layer(x, *path):
    found.setdefault('/'.join(('model', *path, 'kernel')), []).append(x)
    arrays = functools.reduce(dict.get, path, params)
    return np.maximum(x @ arrays['kernel'] + arrays['bias'], 0)

  for batch in batches:
    inputs = sharding.send(batch.inputs)
    encoded = task.network.encoded(state.layers, state.tables, inputs)
    counts = np.asarray(batch.weights) > 0
    vectors = np.asarray(encoded['mlp'])[counts]
    x = np.asarray(batch.inputs.dense)[counts]
    for name in sorted(params['bottom']):
      x = layer(x, 'bottom', name)
    x = np.concatenate([x, vectors.reshape(len(x), -1)], 1)
    for name in sorted(params['top']):
      x = layer(x, 'top', name)
    layer(x, 'mlp_out')
  return {name: np.concatenate(parts) for name, parts in found.items()}


BATCHES = [family.batch_of('mlp', seed) for seed in range(3)]


@pytest.fixture(scope='module')
def observed():
  """A model: the function that calibrates it, and the inputs of its kernels."""
  task = family.task_of('mlp')

  def found(*arguments, batches=BATCHES, devices=1):
    with family.on(devices):
      state = state_of(task)
      arrays = state.layers, state.tables
      return calibrate(task.network, *arrays, batches, *arguments)

  with family.on(1):
    return found, inputs_of(task, state_of(task), BATCHES)


def test_limits_are_the_extremes_of_examples_that_count(observed):
  found, seen = observed
  for devices in 1, 8:
    ranges = found(Method.MIN_MAX, devices=devices)
    assert ranges.keys() == seen.keys()
    for name, x in seen.items():
      limits = ranges[name].low, ranges[name].high
      wanted = min(x.min(), 0), max(x.max(), 0)
      np.testing.assert_allclose(limits, wanted, rtol=1e-5)


def test_a_percentile_cuts_off_one_in_ten_thousand(observed):
  ranges = observed[0](Method.PERCENTILE)
  for name, x in observed[1].items():
    width = (x.max() - x.min()) / 1024  # of a bin of the histogram
    for limit, side in ((ranges[name].low, 1), (-ranges[name].high, -1)):
      beyond = np.mean(side * x < limit - 1e-5)
      assert beyond <= 1e-4 < np.mean(side * x < limit + 2 * width)


def expected_error(x, low, high):
  """Squared error if codes are off by a random part of half a step."""
  within = (x >= low) & (x <= high)
  return np.mean(
    np.where(
      within, ((high - low) / 255) ** 2 / 12, (x.clip(low, high) - x) ** 2
    )
  )


def test_least_squares_are_the_best_limits(observed):
  ranges = observed[0](Method.LEAST_SQUARES)
  for name, x in observed[1].items():
    x = np.float64(x)
    least, greatest = min(x.min(), 0), max(x.max(), 0)
    best = min(
      expected_error(x, least * a, greatest * b)
      for a in np.linspace(0.3, 1, 36)
      for b in np.linspace(0.3, 1, 36)
    )
    mine = expected_error(x, ranges[name].low, ranges[name].high)
    assert mine < 1.02 * best


def test_outliers_are_the_largest_inputs_and_beyond_the_limits(observed):
  ranges = observed[0](Method.MIN_MAX, 2)
  for name, x in observed[1].items():
    sizes = np.abs(x).max(0)
    apart = np.sort(np.argsort(-sizes)[:2])
    np.testing.assert_array_equal(ranges[name].outliers, apart)
    rest = np.delete(x, apart, 1)
    limits = ranges[name].low, ranges[name].high
    wanted = min(rest.min(), 0), max(rest.max(), 0)
    np.testing.assert_allclose(limits, wanted, rtol=1e-5)
  many = observed[0](Method.LEAST_SQUARES, 99)
  for name, x in observed[1].items():
    np.testing.assert_array_equal(many[name].outliers, np.arange(x.shape[1]))
    assert many[name].low == many[name].high == 0


def test_nothing_to_calibrate_on_is_refused(observed):
  batch = BATCHES[0]._replace(weights=0 * BATCHES[0].weights)
  with pytest.raises(InputError, match='there is no example to calibrate on'):
    observed[0](Method.MIN_MAX, batches=[batch])


@pytest.mark.parametrize('fields', [{}, {'outliers': 2}], ids=['row', 'more'])
def test_a_workdir_of_int8_scores_and_is_exported(plain, fields, tmp_path):
  """Whatever scores takes the parameters that the config describes."""
  fields = {'compute_dtype': 'int8', **fields}
  folder = int8_workdir(plain, tmp_path / 'int8', fields)
  rows = scored.blocks_of(plain.data, 'test')
  before = dlrm_jax.load(plain.folder).score(*rows[:2])
  model = dlrm_jax.load(folder)
  after = model.score(*rows[:2])
  assert 0 < np.abs(after - before).max() < 0.05
  told = dlrm_jax.evaluate(folder, json=str(tmp_path / 'told'))
  wanted = dlrm_jax.evaluate(plain.folder, json=str(tmp_path / 'before'))
  assert told['metrics']['auc'] == pytest.approx(
    wanted['metrics']['auc'], abs=0.02
  )
  run = plain._replace(run=dataclasses.replace(plain.run, workdir=folder))
  output = scored.exported(run, tmp_path / 'export')
  exported = dlrm_jax.load(output).score(*rows[:2])
  np.testing.assert_allclose(exported, after, rtol=0, atol=0.01)
  assert np.mean(np.abs(exported - after)) < 1e-4


def int8_workdir(made, folder, fields):
  """The workdir of a run whose layers have become int8."""
  defaults = default.get_config().to_dict()
  with made.on_devices():
    chosen = choose(made.folder, 'best', defaults)
    config = chosen.run.config.copy_and_resolve_references()
    config.model.update(fields)
    run = trained(config.to_dict(), chosen.run.data)
    state = chosen.state()
    ranges = calibrate(
      made.network,
      state.layers,
      state.tables,
      [batch_of(scored.blocks_of(made.data, 'train'))],
      Method.MIN_MAX,
      config.model.outliers,
    )
    like = abstract_params(run.task)
    params = quantize_layers(state.params, like, ranges)
    state = state.replace(params=jax.tree.map(jnp.asarray, params))
    claim = workdir.Claim(config.to_dict(), run.data, 0, defaults)
    layout = run.task.collection.layout
    write_workdir(folder, claim, run.objective, layout, state, scored.STEP)
  return folder


def batch_of(inputs):
  rows = np.ones((len(inputs.ids), 1), np.float32)
  return Batch(inputs, rows, rows[:, 0])
