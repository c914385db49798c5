"""Batch normalisation over the global batch, over all devices.

Source: Ioffe and Szegedy, arXiv 1502.03167, algorithm 1, and the gradients of
its section 3.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.models.mode import Training
from dlrm_jax.sharding import device_count, on_cpu, over_devices

STATISTICS = 'statistics'
"""Linen collection of the running means and variances of `BatchNorm`."""

MOMENTUM = 0.9
"""Share of a running estimate that stays in each step."""
EPS = 1e-5
"""Added to variances."""

Normalised = tuple[jax.Array, jax.Array, jax.Array]
"""The result f32[B, n]; mean and variance of the batch, f32[n]."""
Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""For the gradient: units f32[B, n]; mean, 1 / deviation and scale, f32[n]."""


@jax.custom_vjp
def normalise(x: jax.Array, scale: jax.Array, shift: jax.Array) -> Normalised:
  """Gives units mean 0 and variance 1 over the batch, then scale and shift.

  Gradients go through the result alone, not through the mean and variance,
  of which the running estimates are made.

  Args:
    x: this device's part of the batch, f32[B, n].
    scale: f32[n].
    shift: f32[n].
  """
  return _forward(x, scale, shift)[0]


def _sum(x: jax.Array) -> jax.Array:
  """The sum over axis 0 of this device's part of the batch, f32[n].

  On a CPU it is a product with ones, which takes half of the time there.
  """
  if not on_cpu():
    return jnp.sum(x, 0)
  return jnp.dot(jnp.ones(len(x), x.dtype), x)


def _mean(of_part: jax.Array, examples: int) -> jax.Array:
  """Means over the global batch, from sums over each device's examples."""
  return over_devices(jax.lax.psum, of_part) / (examples * device_count())


def _forward(
  x: jax.Array, scale: jax.Array, shift: jax.Array
) -> tuple[Normalised, Residuals]:
  mean = _mean(_sum(x), len(x))
  centered = x - mean[None]
  variance = _mean(_sum(jnp.square(centered)), len(x))
  inverse = jax.lax.rsqrt(variance + EPS)
  y = centered * (inverse * scale)[None] + shift[None]
  return (y, mean, variance), (x, mean, inverse, scale)


def _backward(
  kept: Residuals, grads: Normalised
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The gradients of units, scale and shift, as the paper has them.

  Automatic differentiation would read the batch more often. Those of scale and
  shift are of this device's part, as the gradients of all parameters are.
  """
  x, mean, inverse, scale = kept
  grad = grads[0]
  normalised = (x - mean[None]) * inverse[None]
  of_part = jnp.stack([_sum(grad * normalised), _sum(grad)])
  slope, center = _mean(of_part, len(x))
  rest = grad - normalised * slope[None] - center[None]
  return rest * (inverse * scale)[None], of_part[0], of_part[1]


normalise.defvjp(_forward, _backward)


class BatchNorm(nn.Module):
  """Batch normalisation, f32[B, n] -> f32[B, n].

  In training each unit gets mean 0 and variance 1 over the global batch; in
  scoring by running estimates. Then it is scaled and shifted. As torch does,
  the running variance is the unbiased one.
  """

  @nn.compact
  def __call__(self, x: jax.Array, train: Training | None) -> jax.Array:
    """The normalised units; in training the running estimates move."""
    shape = (x.shape[-1],)
    scale = self.param('scale', nn.initializers.ones, shape)
    shift = self.param('bias', nn.initializers.zeros, shape)
    mean = self.variable(STATISTICS, 'mean', jnp.zeros, shape)
    variance = self.variable(STATISTICS, 'var', jnp.ones, shape)
    if train is None:
      factor = scale * jax.lax.rsqrt(variance.value + EPS)
      return (x - mean.value[None]) * factor[None] + shift[None]
    y, center, spread = normalise(x, scale, shift)
    count = len(x) * device_count()
    unbiased = spread * (count / max(count - 1, 1))
    for old, new in ((mean, center), (variance, unbiased)):
      old.value = MOMENTUM * old.value + (1 - MOMENTUM) * new
    return y
