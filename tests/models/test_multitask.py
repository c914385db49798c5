"""Models of several labels: shared bottom, MMoE, ESMM."""

import numpy as np
import pytest

from dlrm_jax.models.multitask import (
  ESMM,
  MMoE,
  SharedBottom,
  logit_of_product,
)
from dlrm_jax.models.shapes import Shapes
from tests.models import forward

BOTTOM, TOP = (6, 4), (7,)


@pytest.mark.parametrize('dense', [0, 2])
def test_shared_bottom_has_a_tower_for_each_label(dense):
  x, vectors = forward.inputs(dense, vectors=(3, 4))
  model = SharedBottom(BOTTOM, TOP, outputs=3, shared=(8, 5))
  params, logits = forward.outputs(model, x, vectors)
  shared = forward.joined(params, x, vectors['vectors'])
  shared = forward.mlp(params['shared'], shared, True)
  assert logits.shape == (forward.BATCH, 3)
  for t in range(3):
    want = forward.mlp(params[f'tower_{t}'], shared, False)[:, 0]
    np.testing.assert_allclose(logits[:, t], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dense', [0, 2])
def test_mmoe_mixes_experts_for_each_label(dense):
  x, vectors = forward.inputs(dense, vectors=(3, 4))
  model = MMoE(BOTTOM, TOP, outputs=2, experts=3, expert=(8, 5))
  params, logits = forward.outputs(model, x, vectors)
  joined = forward.joined(params, x, vectors['vectors'])
  for t in range(2):
    gate = np.exp(forward.affine(params[f'gate_{t}'], joined))
    mixed = sum(
      gate[:, [e]] * forward.mlp(params[f'expert_{e}'], joined, True)
      for e in range(3)
    ) / gate.sum(1, keepdims=True)
    want = forward.mlp(params[f'tower_{t}'], mixed, False)[:, 0]
    np.testing.assert_allclose(logits[:, t], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dense', [0, 2])
def test_esmm_multiplies_the_probabilities_of_click_and_conversion(dense):
  x, vectors = forward.inputs(dense, vectors=(3, 4))
  params, logits = forward.outputs(ESMM(BOTTOM, TOP, outputs=2), x, vectors)
  joined = forward.joined(params, x, vectors['vectors']).astype(np.float64)
  click, conversion = (
    forward.sigmoid(forward.mlp(params[name], joined, False)[:, 0])
    for name in ('click', 'conversion')
  )
  got = forward.sigmoid(logits.astype(np.float64))
  np.testing.assert_allclose(got[:, 0], click, rtol=1e-4)
  np.testing.assert_allclose(got[:, 1], click * conversion, rtol=1e-4)


def test_the_logit_of_a_product_is_that_of_high_precision():
  a, b = np.meshgrid(np.linspace(-15, 15, 41), np.linspace(-15, 15, 41))
  product = forward.sigmoid(a) * forward.sigmoid(b)
  rest = forward.sigmoid(-a) + forward.sigmoid(a) * forward.sigmoid(-b)
  want = np.log(product) - np.log(rest)
  got = logit_of_product(a.astype(np.float32), b.astype(np.float32))
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  ('model', 'why'),
  [
    (SharedBottom(BOTTOM, TOP, outputs=3), ''),
    (MMoE(BOTTOM, TOP, outputs=3), ''),
    (MMoE(BOTTOM, TOP, experts=0), 'mmoe.experts is 0; expected 1 or more'),
    (ESMM(BOTTOM, TOP, outputs=2), ''),
    (ESMM(BOTTOM, TOP), 'name is esmm, which learns two labels, click and cl'),
  ],
)
def test_inputs_that_do_not_fit_are_said(model, why):
  shapes = Shapes(2, {'vectors': (3, 4)})
  assert model.misfit(shapes).startswith(why)
  assert bool(model.misfit(shapes)) == bool(why)
