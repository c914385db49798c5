import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.models.dlrm import DLRM, Interaction
from dlrm_jax.models.interaction import dot_interaction, pairs
from dlrm_jax.models.mlp import Dense
from dlrm_jax.models.shapes import Shapes


def plain_dot(vectors, itself):
  i, j = pairs(vectors.shape[1], itself)
  return jnp.sum(vectors[:, i] * vectors[:, j], -1)


@pytest.mark.parametrize('itself', [False, True])
def test_dot_interaction_and_its_gradient_are_the_plain_ones(itself):
  vectors = jax.random.normal(jax.random.key(0), (3, 5, 4))
  np.testing.assert_allclose(
    dot_interaction(vectors, itself), plain_dot(vectors, itself), rtol=1e-5
  )

  def gradient(function):
    return jax.grad(lambda v: jnp.sum(jnp.sin(function(v, itself))))(vectors)

  np.testing.assert_allclose(
    gradient(dot_interaction), gradient(plain_dot), rtol=1e-4, atol=1e-5
  )


def test_pairs_are_row_by_row_below_the_diagonal():
  i, j = pairs(4, False)
  assert list(zip(i.tolist(), j.tolist(), strict=True)) == [
    (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2),
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('interaction', 'width'),
  [('dot', 8 + 6), ('dot_itself', 8 + 10), ('cat', 8 + 24)],
)
def test_top_sees_dense_then_interactions(interaction, width):
  model = DLRM((16, 8), (4,), interaction=Interaction(interaction))
  dense, vectors = jnp.zeros((2, 5)), {'vectors': jnp.zeros((2, 3, 8))}
  params = model.init(jax.random.key(0), dense, vectors)['params']
  assert params['top']['dense_0']['kernel'].shape == (width, 4)
  assert params['top']['dense_1']['kernel'].shape == (4, 1)
  assert model.apply({'params': params}, dense, vectors).shape == (2, 1)


def test_without_dense_features_there_is_no_bottom():
  model = DLRM((16, 8), (4,))
  dense, vectors = jnp.zeros((2, 0)), {'vectors': jnp.zeros((2, 3, 8))}
  params = model.init(jax.random.key(0), dense, vectors)['params']
  assert set(params) == {'top'}


def test_bfloat16_products_stay_near_float32():
  dense = jax.random.normal(jax.random.key(1), (64, 13))
  vectors = {
    'vectors': jax.random.normal(jax.random.key(2), (64, 26, 16)) * 0.1
  }
  model = DLRM((32, 16), (32,))
  params = model.init(jax.random.key(0), dense, vectors)
  half = DLRM((32, 16), (32,), operands=jnp.bfloat16)
  got, want = (
    half.apply(params, dense, vectors),
    model.apply(params, dense, vectors),
  )
  assert got.dtype == jnp.float32
  assert not np.array_equal(got, want)
  np.testing.assert_allclose(got, want, atol=0.05)


def test_layers_start_as_in_the_reference():
  params = Dense(400).init(jax.random.key(0), jnp.zeros((1, 100)))['params']
  np.testing.assert_allclose(
    np.std(params['kernel']), np.sqrt(2 / 500), rtol=0.02
  )
  assert np.abs(params['kernel']).max() > 3.5 * np.sqrt(2 / 500)  # has tails
  np.testing.assert_allclose(np.std(params['bias']), np.sqrt(1 / 400), rtol=0.1)


@pytest.mark.parametrize(
  ('model', 'shapes', 'why'),
  [
    (
      DLRM((8, 4), (8,)),
      Shapes(0, {'vectors': (1, 4)}),
      'dlrm.interaction is d',
    ),
    (DLRM((8, 5), (8,)), Shapes(3, {'vectors': (2, 4)}), 'bottom ends in wid'),
    (DLRM((8, 4), (8,)), Shapes(3, {'vectors': (1, 4)}), ''),
    (
      DLRM((8, 5), (8,), interaction=Interaction.CAT),
      Shapes(3, {'vectors': (1, 4)}),
      '',
    ),
  ],
)
def test_shapes_that_do_not_fit_are_said(model, shapes, why):
  assert model.misfit(shapes).startswith(why)
  assert bool(model.misfit(shapes)) == bool(why)
