"""The learning-rate schedule of MLPerf's DLRM: warm up, hold, decay, stop."""

import jax
import jax.numpy as jnp
import optax

from dlrm_jax.errors import InputError


def _check(
  base: float,
  warmup_steps: int,
  decay_start: int,
  decay_steps: int,
  power: float,
) -> None:
  """Raises InputError for a schedule that nobody can have meant."""
  for field, value in (
    ('base', base),
    ('warmup_steps', warmup_steps),
    ('decay_start', decay_start),
    ('decay_steps', decay_steps),
  ):
    if not 0 <= value < float('inf'):
      raise InputError(f'{field} is {value}; expected a number of 0 or more')
  if not 0 < power < float('inf'):
    raise InputError(f'power is {power}; expected a number above 0')
  if decay_steps and decay_start < warmup_steps:
    raise InputError(
      f'decay_start is {decay_start}, before the warm-up ends; expected'
      f' {warmup_steps} (warmup_steps) or more, or decay_steps=0'
    )


def mlperf(
  base: float,
  warmup_steps: int = 0,
  decay_start: int = 0,
  decay_steps: int = 0,
  power: float = 2.0,
) -> optax.Schedule:
  """Linear warm-up, hold, polynomial decay to 0.

  The rate of update k, counted from 1 (Optax counts from 0):

    k <= warmup_steps          base * k / warmup_steps
    k <= decay_start           base
    k <= decay_start + decay_steps
                               base * ((decay_start + decay_steps - k)
                                       / decay_steps) ** power
    later                      0

  Without warm-up and decay (0 steps each) it is the constant `base`.

  facebookresearch/dlrm has the same warm-up and decay for the same k, but
  where it decays at all it holds at base * (warmup_steps - 1) / warmup_steps,
  the last rate of its warm-up, does not fall below 1e-7, and goes on with the
  rate of the last decayed update instead of 0.

  Args:
    base: the rate that is held.
    warmup_steps: updates of the linear warm-up; the last one has `base`.
    decay_start: last update before the decay; unused without one.
    decay_steps: updates from there to 0; 0 holds `base` for ever.
    power: exponent of the decay, 2 in MLPerf.

  Returns:
    A function of Optax's count, i32[], to f32[].

  Raises:
    InputError: a negative number, or a decay that starts in the warm-up.

  >>> rate = mlperf(1.0, warmup_steps=4, decay_start=6, decay_steps=2)
  >>> [float(rate(count)) for count in range(8)]
  [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.25, 0.0]
  """
  _check(base, warmup_steps, decay_start, decay_steps, power)

  def schedule(count: jax.typing.ArrayLike) -> jax.Array:
    k = jnp.asarray(count, jnp.int32) + 1
    rate = base * jnp.minimum(k / max(warmup_steps, 1), 1.0)
    if decay_steps:
      left = (decay_start + decay_steps - k) / decay_steps
      rate = rate * jnp.clip(left, 0.0, 1.0) ** power
    return rate

  return schedule
