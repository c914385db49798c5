"""Batch normalisation beside a plain one, whose gradients JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax import sharding
from dlrm_jax.models.batch_norm import EPS, normalise

B, N = 64, 5


def plain(x, scale, shift):
  """The normalised units of a whole batch, f32[B, N]."""
  mean, variance = jnp.mean(x, 0), jnp.var(x, 0)
  return (x - mean[None]) / jnp.sqrt(variance + EPS)[None] * scale[
    None
  ] + shift[None]


def loss_of(apply):
  """A loss in which every unit of the result counts in its own way."""

  def loss(x, scale, shift, weights):
    return jnp.sum(weights * jnp.square(apply(x, scale, shift)))

  return loss


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_result_and_gradients_are_those_of_the_plain_form(devices):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(3, 2, (B, N)), jnp.float32)
  scale, shift = jnp.asarray(rng.normal(1, 1, (2, N)), jnp.float32)
  weights = jnp.asarray(rng.normal(0, 1, (B, N)), jnp.float32)
  expected = plain(x, scale, shift)
  expected_grads = jax.grad(loss_of(plain), (0, 1, 2))(x, scale, shift, weights)

  def of_part(x, scale, shift, weights):
    y, mean, variance = normalise(x, scale, shift)
    grads = jax.grad(
      loss_of(lambda *arguments: normalise(*arguments)[0]), (0, 1, 2)
    )(x, scale, shift, weights)
    summed = [sharding.over_devices(jax.lax.psum, grad) for grad in grads[1:]]
    return y, mean, variance, (grads[0], *summed)

  split, copied = sharding.SPLIT, sharding.COPIED
  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    y, mean, variance, grads = jax.jit(
      sharding.on_each_device(
        of_part,
        (split, copied, copied, split),
        (split, copied, copied, (split, copied, copied)),
      )
    )(x, scale, shift, weights)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5)
  np.testing.assert_allclose(variance, x.var(0), rtol=1e-5)
  for got, wanted in zip(grads, expected_grads, strict=True):
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
