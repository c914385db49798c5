"""Models without MLPs: LR, FM, MF."""

import jax
import numpy as np
import pytest

from dlrm_jax.models.fm import FM
from dlrm_jax.models.lr import LR
from dlrm_jax.models.mf import MF
from dlrm_jax.models.shapes import Shapes
from tests.models import forward


@pytest.mark.parametrize('dense', [0, 2])
@pytest.mark.parametrize('labels', [1, 3])
def test_lr_adds_weights_of_ids_and_of_dense_features(dense, labels):
  model = LR(outputs=labels)
  x, vectors = forward.inputs(dense, linear=(3, model.roles(4)['linear']))
  params, logits = forward.outputs(model, x, vectors)
  want = forward.linear(params['linear'], x, vectors['linear'])
  assert logits.shape == (forward.BATCH, labels)
  np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-6)


def test_lr_starts_at_the_weights_of_the_ids():
  x, vectors = forward.inputs(2, linear=(3, 1))
  model = LR()
  variables = model.init(jax.random.key(0), x, vectors)
  np.testing.assert_allclose(
    model.apply(variables, x, vectors), vectors['linear'].sum(1), rtol=1e-6
  )


@pytest.mark.parametrize('dense', [0, 2])
def test_fm_adds_the_products_of_all_pairs_of_variables(dense):
  x, vectors = forward.inputs(dense, vectors=(3, 4), linear=(3, 1))
  params, logits = forward.outputs(FM(), x, vectors)
  terms = vectors['vectors']
  if dense:
    own = x[:, :, None] * params['dense_vectors']
    terms = np.concatenate([own, terms], 1)
  want = forward.linear(params['linear'], x, vectors['linear'])
  want = want + forward.pair_products(terms)
  np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-5)


def test_mf_is_a_product_and_biases():
  x, vectors = forward.inputs(0, vectors=(2, 4), linear=(2, 1))
  params, logits = forward.outputs(MF(), x, vectors)
  user, item = vectors['vectors'][:, 0], vectors['vectors'][:, 1]
  bias_u, bias_i = vectors['linear'][:, 0, 0], vectors['linear'][:, 1, 0]
  want = params['linear']['bias'] + bias_u + bias_i + (user * item).sum(1)
  np.testing.assert_allclose(logits[:, 0], want, rtol=1e-5, atol=1e-6)


PAIR = Shapes(0, {'vectors': (2, 4), 'linear': (2, 1)})


@pytest.mark.parametrize(
  ('model', 'shapes', 'why'),
  [
    (LR(outputs=2), Shapes(1, {'linear': (3, 2)}), ''),
    (FM(), PAIR, ''),
    (FM(outputs=2), PAIR, 'name is fm, which has one output, but the data ha'),
    (MF(), PAIR, ''),
    (MF(outputs=2), PAIR, 'name is mf, which has one output, but the data has'),
    (MF(), Shapes(0, {'vectors': (3, 4)}), 'name is mf, which takes two spar'),
    (MF(), Shapes(1, {'vectors': (2, 4)}), 'name is mf, which has no use for'),
  ],
)
def test_inputs_that_do_not_fit_are_said(model, shapes, why):
  assert model.misfit(shapes).startswith(why)
  assert bool(model.misfit(shapes)) == bool(why)
