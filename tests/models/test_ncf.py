"""Neural collaborative filtering: GMF, MLP, NeuMF."""

import numpy as np
import pytest

from dlrm_jax.models.ncf import GMF, DeepNCF, NeuMF
from dlrm_jax.models.shapes import Shapes
from tests.models import forward

TOP = (7, 5)


def gmf(params, pair):
  return forward.affine(params['gmf_out'], pair[:, 0] * pair[:, 1])


def mlp(params, dense, vectors):
  x = forward.joined(params, dense, vectors)
  x = forward.mlp(params['top'], x, True)
  return forward.affine(params['mlp_out'], x)


@pytest.mark.parametrize('labels', [1, 2])
def test_gmf_weighs_the_products_of_user_and_item(labels):
  x, vectors = forward.inputs(0, gmf=(2, 4))
  params, logits = forward.outputs(GMF(outputs=labels), x, vectors)
  assert logits.shape == (forward.BATCH, labels)
  want = gmf(params, vectors['gmf'])
  np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('dense', 'features'), [(0, 2), (2, 3)])
def test_mlp_is_a_tower_over_all_vectors(dense, features):
  x, vectors = forward.inputs(dense, mlp=(features, 4))
  model = DeepNCF((6, 4), TOP, outputs=2)
  params, logits = forward.outputs(model, x, vectors)
  assert logits.shape == (forward.BATCH, 2)
  want = mlp(params, x, vectors['mlp'])
  np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-5)


def test_neumf_is_the_mean_of_a_gmf_and_an_mlp_of_equal_names():
  model = NeuMF((6, 4), TOP, mlp_dim=6)
  assert model.roles(4) == {'gmf': 4, 'mlp': 6}
  x, vectors = forward.inputs(2, gmf=(2, 4), mlp=(2, 6))
  params, logits = forward.outputs(model, x, vectors)
  left = GMF().apply({'params': {'gmf_out': params['gmf_out']}}, x, vectors)
  others = {name: p for name, p in params.items() if name != 'gmf_out'}
  right = DeepNCF((6, 4), TOP).apply({'params': others}, x, vectors)
  np.testing.assert_allclose(logits, (left + right) / 2, rtol=1e-5, atol=1e-6)
  want = (gmf(params, vectors['gmf']) + mlp(params, x, vectors['mlp'])) / 2
  np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-5)


def test_neumf_has_vectors_of_one_width_if_none_is_given():
  assert NeuMF((4,), TOP).roles(8) == {'gmf': 8, 'mlp': 8}


@pytest.mark.parametrize(
  ('model', 'shapes', 'why'),
  [
    (GMF(), Shapes(0, {'gmf': (2, 4)}), ''),
    (GMF(), Shapes(0, {'gmf': (3, 4)}), 'name is gmf, which takes two sparse'),
    (GMF(), Shapes(1, {'gmf': (2, 4)}), 'name is gmf, which has no use for'),
    (DeepNCF((4,), TOP), Shapes(1, {'mlp': (3, 4)}), ''),
    (NeuMF((4,), TOP), Shapes(1, {'gmf': (2, 4), 'mlp': (2, 4)}), ''),
    (
      NeuMF((4,), TOP),
      Shapes(0, {'gmf': (3, 4), 'mlp': (3, 4)}),
      'name is neumf, which takes two sparse',
    ),
  ],
)
def test_inputs_that_do_not_fit_are_said(model, shapes, why):
  assert model.misfit(shapes).startswith(why)
  assert bool(model.misfit(shapes)) == bool(why)
