"""Learning rates as functions of the step: warm up, hold, decay, stop."""

import jax
import jax.numpy as jnp
import optax

from dlrm_jax.errors import InputError


def _check(
  learning_rate: float,
  warmup_steps: int,
  decay_start: int,
  decay_steps: int,
  decay_power: float,
) -> None:
  """Raises InputError for impossible numbers."""
  for field, value in (
    ('learning_rate', learning_rate),
    ('warmup_steps', warmup_steps),
    ('decay_start', decay_start),
    ('decay_steps', decay_steps),
  ):
    if not 0 <= value < float('inf'):
      raise InputError(f'{field} is {value}; expected a number of 0 or more')
  if not 0 < decay_power < float('inf'):
    raise InputError(f'decay_power is {decay_power}; expected a number above 0')
  if decay_steps and decay_start < warmup_steps:
    raise InputError(
      f'decay_start is {decay_start}, before the warm-up ends; expected'
      f' {warmup_steps} (warmup_steps) or more, or decay_steps=0'
    )


def mlperf(
  learning_rate: float,
  warmup_steps: int = 0,
  decay_start: int = 0,
  decay_steps: int = 0,
  decay_power: float = 2.0,
) -> optax.Schedule:
  """Linear warm-up, hold, polynomial decay to 0.

  The rate of update k, counted from 1 (Optax counts from 0):

    k <= warmup_steps               rate * k / warmup_steps
    k <= decay_start                rate
    k <= end                        rate * ((end - k) / decay_steps) ** power
    later                           0

  with end = decay_start + decay_steps. Without warm-up and decay (0 steps
  each) it is constant.

  facebookresearch/dlrm has the same warm-up and decay for the same k. But if
  it decays, it holds at rate * (warmup_steps - 1) / warmup_steps, the last
  rate of its warm-up; its rate does not fall below 1e-7; and it continues at
  the rate of the last decayed update instead of 0.

  Args:
    learning_rate: the rate between warm-up and decay.
    warmup_steps: updates of the linear warm-up; the last has the full rate.
    decay_start: last update before the decay; ignored without a decay.
    decay_steps: updates of the decay to 0; 0: the rate never decays.
    decay_power: exponent of the decay, 2 in MLPerf.

  Returns:
    A function of Optax's count, i32[], to f32[].

  Raises:
    InputError: a number is negative, or the decay starts before the warm-up
      ends.

  >>> rate = mlperf(1.0, warmup_steps=4, decay_start=6, decay_steps=2)
  >>> [float(rate(count)) for count in range(8)]
  [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.25, 0.0]
  """
  _check(learning_rate, warmup_steps, decay_start, decay_steps, decay_power)

  def schedule(count: jax.typing.ArrayLike) -> jax.Array:
    k = jnp.asarray(count, jnp.int32) + 1
    rate = learning_rate * jnp.minimum(k / max(warmup_steps, 1), 1.0)
    if decay_steps:
      left = (decay_start + decay_steps - k) / decay_steps
      rate = rate * jnp.clip(left, 0.0, 1.0) ** decay_power
    return rate

  return schedule


def cosine(
  learning_rate: float,
  warmup_steps: int = 0,
  decay_start: int = 0,
  decay_steps: int = 0,
  decay_power: float = 1.0,
) -> optax.Schedule:
  """Linear warm-up, hold, then half a cosine to 0; arguments as `mlperf`'s.

  The rate of update k of the decay, which begins after `decay_start`, is
  rate * ((1 + cos(pi (k - decay_start) / decay_steps)) / 2) ** power.
  Source: Loshchilov and Hutter, arXiv 1608.03983, without restarts.

  >>> rate = cosine(1.0, decay_steps=4)
  >>> [round(float(rate(count)), 3) for count in range(5)]
  [0.854, 0.5, 0.146, 0.0, 0.0]
  """
  _check(learning_rate, warmup_steps, decay_start, decay_steps, decay_power)
  hold = mlperf(learning_rate, warmup_steps)

  def schedule(count: jax.typing.ArrayLike) -> jax.Array:
    rate = jnp.asarray(hold(count))
    if decay_steps:
      k = jnp.asarray(count, jnp.int32) + 1
      part = jnp.clip((k - decay_start) / decay_steps, 0.0, 1.0)
      rate = rate * ((1 + jnp.cos(jnp.pi * part)) / 2) ** decay_power
    return rate

  return schedule
