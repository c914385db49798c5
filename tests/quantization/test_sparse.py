"""Networks that multiply some kernels without their zeros."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from dlrm_jax import native, sharding
from dlrm_jax.build.network import MODELS
from dlrm_jax.errors import InputError
from dlrm_jax.models.layer import Layer
from dlrm_jax.models.sparse import Form
from dlrm_jax.optim.block import Block
from dlrm_jax.optim.pruning import Pruning, kernels_of, pruned
from dlrm_jax.quantization.sparse import specialised, usable
from dlrm_jax.training.state import new_state
from tests import family

LAYERED = sorted(set(MODELS) - {'lr', 'fm', 'mf'})
ENCODED = {
  'dlrm': {'tables.encoding': 'quotient_remainder', 'tables.combine': 'path'},
  'wide_deep': {'model.branches': 2},
}


def pruned_model(name, fields=None):
  """A task, and a state whose kernels have zeros, on the mesh in use."""
  task = family.task_of(name, {'tables.threshold': 5, **(fields or {})})
  state = new_state(task, jax.random.key(5))
  flat = flatten_dict(dict(state.params), sep='/')
  for path, kernel in kernels_of(state.params).items():
    flat[path] = pruned(kernel, Pruning(0.6, Block(2, 2)))
  return task, state.replace(params=unflatten_dict(flat, sep='/'))


def assert_alike(name, fields=None):
  task, state = pruned_model(name, fields)
  inputs = sharding.send(family.batch_of(name, 0).inputs)
  kernels = list(kernels_of(state.params))
  forms = {x: [*Form][k % len(Form)] for k, x in enumerate(kernels)}
  scored = specialised(task.network, state.layers, forms)
  wanted, found = (
    jax.jit(network.outputs)(layers, state.tables, inputs)
    for network, layers in (
      (task.network, state.layers),
      (scored.network, scored.layers),
    )
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
  assert scored.patterns.keys() == {
    name for name, form in forms.items() if usable(form)
  }


def test_a_dlrm_scores_as_with_its_zeros():
  with family.on(1):
    assert_alike('dlrm')


@pytest.mark.slow
@pytest.mark.parametrize('name', LAYERED)
def test_every_model_scores_as_with_its_zeros(name):
  with family.on(1):
    assert_alike(name, ENCODED.get(name))


def test_on_several_devices_there_is_the_smaller_product_alone():
  with family.on(2):
    assert_alike('dlrm')
    assert [form for form in Form if usable(form)] == [Form.SMALLER]


def test_without_kernels_in_c_there_is_the_smaller_product_alone():
  with family.on(1), native.left_out():
    assert_alike('dlrm')
    assert [form for form in Form if usable(form)] == [Form.SMALLER]


@pytest.mark.parametrize('name', ['dlrm', 'dcn', 'wide_deep', 'mmoe', 'gmf'])
def test_kernels_of_several_outputs_can_be_pruned(name):
  task, found = family.task_of(name, ENCODED.get(name)), {}

  def noted(method, arguments, options, context):
    if context.method_name == 'times' and isinstance(context.module, Layer):
      x, kernel, width, _ = arguments
      found['/'.join((*context.module.path, kernel))] = x.shape[-1], width
    return method(*arguments, **options)

  with nn.intercept_methods(noted):
    params = jax.eval_shape(task.network.init, jax.random.key(0)).params
  there = {path: x.shape for path, x in kernels_of(params).items()}
  assert there == {path: x for path, x in found.items() if x[1] > 1}


def test_a_kernel_that_is_not_there_is_refused():
  with family.on(1):
    task, state = pruned_model('dlrm')
    with pytest.raises(InputError, match='no kernel x; it has model/bottom/'):
      specialised(task.network, state.layers, {'x': Form.SMALLER})


def test_bytes_are_those_of_what_is_kept():
  with family.on(1):
    task, state = pruned_model('dlrm')
    forms = dict.fromkeys(kernels_of(state.params), Form.SMALLER)
    whole = specialised(task.network, state.layers, {})
    packed = specialised(task.network, state.layers, forms)
  constants = [
    x for p in packed.patterns.values() for x in (p.inputs, p.outputs)
  ]
  lost = sum(
    4 * (x.size - np.prod(packed.patterns[name].shape))
    for name, x in kernels_of(state.params).items()
  )
  assert whole.bytes == sum(x.nbytes for x in jax.tree.leaves(state.params))
  assert packed.bytes == whole.bytes - lost + sum(x.nbytes for x in constants)
