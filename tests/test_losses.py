import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as oracle

from dlrm_jax import losses


@pytest.mark.parametrize(
  ('loss', 'reference'),
  [
    (losses.binary_cross_entropy, oracle.log_loss),
    (losses.squared_error, oracle.brier_score_loss),
  ],
)
def test_losses_agree_with_scikit_learn(loss, reference):
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 3, 200).astype(np.float32)
  labels = rng.integers(0, 2, 200).astype(np.float32)
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  assert float(loss(logits, labels).mean()) == pytest.approx(
    reference(labels, p), rel=1e-5
  )


@pytest.mark.parametrize(
  'loss', [losses.binary_cross_entropy, losses.squared_error]
)
@pytest.mark.parametrize('label', [0.0, 1.0])
def test_gradients_are_finite_at_extreme_logits(loss, label):
  for logit in (-1e4, -100.0, 0.0, 100.0, 1e4):
    value, slope = jax.value_and_grad(loss)(jnp.float32(logit), label)
    assert np.isfinite(value)
    assert np.isfinite(slope)


def test_gradient_of_cross_entropy_is_probability_minus_label():
  slope = jax.grad(losses.binary_cross_entropy)(jnp.float32(0.7), 1.0)
  assert float(slope) == pytest.approx(1 / (1 + np.exp(-0.7)) - 1, rel=1e-6)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.int32])
def test_losses_are_float32_whatever_comes_in(dtype):
  x = jnp.array([0, 1], dtype)
  assert losses.binary_cross_entropy(x, x).dtype == jnp.float32
  assert losses.squared_error(x, x).dtype == jnp.float32
