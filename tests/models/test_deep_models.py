"""Models with an MLP and one kind of logit: wide & deep, DeepFM, DCN-V2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.models.dcn import DCN, Structure
from dlrm_jax.models.deepfm import DeepFM
from dlrm_jax.models.mlp import Norm
from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import Shapes
from dlrm_jax.models.wide_deep import WideDeep
from tests.models import forward

BOTTOM, TOP = (6, 4), (7, 5)


@pytest.mark.parametrize('dense', [0, 2])
@pytest.mark.parametrize('labels', [1, 3])
def test_wide_deep_adds_logits_of_a_linear_model_and_an_mlp(dense, labels):
  model = WideDeep(BOTTOM, TOP, outputs=labels)
  assert model.roles(4) == {'vectors': 4, 'linear': labels}
  x, vectors = forward.inputs(dense, vectors=(3, 4), linear=(3, labels))
  params, logits = forward.outputs(model, x, vectors)
  joined = forward.joined(params, x, vectors['vectors'])
  want = forward.linear(params['linear'], x, vectors['linear'])
  want = want + forward.mlp(params['top'], joined, False)
  assert logits.shape == (forward.BATCH, labels)
  np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dense', [0, 2])
def test_deepfm_adds_logits_of_a_factorization_machine_and_an_mlp(dense):
  model = DeepFM(BOTTOM, TOP)
  x, vectors = forward.inputs(dense, vectors=(3, 4), linear=(3, 1))
  params, logits = forward.outputs(model, x, vectors)
  terms = vectors['vectors']
  if dense:
    first = forward.mlp(params['bottom'], x, True)
    terms = np.concatenate([first[:, None], terms], 1)
  want = forward.linear(params['linear'], x, vectors['linear'])
  want = want + forward.pair_products(terms)
  flat = terms.reshape(len(terms), -1)
  want = want + forward.mlp(params['top'], flat, False)
  np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-5)


def cross(params, rank, start):
  """The cross layers, an example and an output at a time."""
  result = start
  for i in range(2):
    layer = params[f'cross_{i}']
    matrix = layer['down'] @ layer['up'] if rank else layer['kernel']
    following = np.zeros_like(result)
    for b in range(len(result)):
      for column in range(result.shape[1]):
        total = layer['bias'][column] + result[b] @ matrix[:, column]
        following[b, column] = start[b, column] * total + result[b, column]
    result = following
  return result


@pytest.mark.parametrize('structure', list(Structure))
@pytest.mark.parametrize(('rank', 'dense'), [(0, 0), (0, 2), (3, 2)])
def test_dcn_is_cross_layers_and_an_mlp(structure, rank, dense):
  model = DCN(BOTTOM, TOP, outputs=2, layers=2, rank=rank, structure=structure)
  x, vectors = forward.inputs(dense, vectors=(3, 4))
  params, logits = forward.outputs(model, x, vectors)
  start = forward.joined(params, x, vectors['vectors'])
  crossed = cross(params, rank, start)
  if structure is Structure.STACKED:
    want = forward.mlp(params['top'], crossed, False)
  else:
    deep = forward.mlp(params['top'], start, True)
    both = np.concatenate([crossed, deep], 1)
    want = forward.affine(params['out'], both)
  assert logits.shape == (forward.BATCH, 2)
  np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-4)


def test_parallel_dcn_normalises_every_layer_of_its_mlp():
  model = DCN(
    BOTTOM, TOP, norm=Norm.BATCH, dropout=0.5, structure=Structure.PARALLEL
  )
  x, vectors = forward.inputs(0, vectors=(3, 4))
  variables = model.init(jax.random.key(0), x, vectors)
  assert {*variables['params']['top']} == {
    'dense_0', 'norm_0', 'dense_1', 'norm_1',
  }  # fmt: skip
  train = Training(jnp.uint32(1), jnp.arange(len(x), dtype=jnp.int32))
  logits, moved = model.apply(
    variables, x, vectors, train, mutable=['statistics']
  )
  before, after = variables['statistics'], moved['statistics']
  assert not np.array_equal(
    before['top']['norm_1']['mean'], after['top']['norm_1']['mean']
  )
  scored = model.apply(variables, x, vectors)
  assert not np.allclose(logits, scored)


def test_cross_layers_multiply_in_the_compute_dtype():
  x, vectors = forward.inputs(0, vectors=(3, 4))
  full, half = (
    DCN(BOTTOM, TOP, operands=x) for x in (jnp.float32, jnp.bfloat16)
  )
  variables = full.init(jax.random.key(0), x, vectors)
  want, got = (m.apply(variables, x, vectors) for m in (full, half))
  assert got.dtype == jnp.float32
  assert not np.array_equal(got, want)
  np.testing.assert_allclose(got, want, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
  ('model', 'why'),
  [
    (WideDeep((6, 5), TOP, outputs=2), ''),
    (DeepFM(BOTTOM, TOP), ''),
    (DeepFM((6, 5), TOP), 'bottom ends in width 5; expected 4'),
    (DeepFM(BOTTOM, TOP, outputs=2), 'name is deepfm, which has one output'),
    (DCN((6, 5), TOP), ''),
    (DCN(BOTTOM, TOP, layers=0), 'dcn.layers is 0; expected 1 or more'),
  ],
)
def test_inputs_that_do_not_fit_are_said(model, why):
  shapes = Shapes(2, {'vectors': (3, 4), 'linear': (3, 1)})
  assert model.misfit(shapes).startswith(why)
  assert bool(model.misfit(shapes)) == bool(why)
