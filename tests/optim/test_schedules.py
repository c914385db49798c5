import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.optim import schedules


def rate(k, base, warmup, start, steps, power):
  """Rate of update k, counted from 1, straight from the definition."""
  if k <= warmup:
    return base * k / warmup
  if steps == 0 or k <= start:
    return base
  if k >= start + steps:
    return 0.0
  return base * ((start + steps - k) / steps) ** power


@pytest.mark.parametrize(
  ('base', 'warmup', 'start', 'steps', 'power'),
  [
    (24.0, 20, 50, 30, 2),
    (0.1, 10, 10, 15, 1),
    (0.1, 1, 5, 1, 2),
    (1.0, 0, 7, 20, 2.5),
    (1.0, 0, 0, 10, 2),
    (1.0, 12, 0, 0, 2),
    (0.3, 0, 0, 0, 2),
    (0.0, 5, 5, 5, 2),
  ],
)
def test_every_update_has_the_defined_rate(base, warmup, start, steps, power):
  schedule = jax.jit(schedules.mlperf(base, warmup, start, steps, power))
  counts = range(start + steps + warmup + 5)
  got = [schedule(jnp.int32(count)) for count in counts]
  want = [rate(c + 1, base, warmup, start, steps, power) for c in counts]
  np.testing.assert_allclose(got, want, rtol=2e-6, atol=0)
  assert all(r.dtype == jnp.float32 and r.shape == () for r in got)


def test_it_stays_exact_at_the_steps_of_mlperf():
  schedule = schedules.mlperf(24.0, 2750, 49315, 27772)
  for k in (1, 2750, 2751, 49315, 49316, 77086, 77087, 10**9):
    np.testing.assert_allclose(
      schedule(jnp.int32(k - 1)),
      rate(k, 24.0, 2750, 49315, 27772, 2),
      rtol=1e-6,
    )


def test_without_warm_up_and_decay_it_is_the_constant():
  schedule = schedules.mlperf(0.1)
  constant = optax.constant_schedule(0.1)
  for count in (0, 1, 1000):
    assert schedule(count) == jnp.float32(constant(count))


def test_it_drives_an_optimizer():
  tx = optax.sgd(schedules.mlperf(1.0, warmup_steps=2))
  state = tx.init(jnp.float32(0))
  steps = []
  for _ in range(3):
    update, state = tx.update(jnp.float32(1), state)
    steps.append(float(update))
  assert steps == [-0.5, -1.0, -1.0]


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'learning_rate': -0.1}, 'learning_rate is -0.1; expected'),
    ({'learning_rate': float('nan')}, 'learning_rate is nan; expected'),
    ({'warmup_steps': -1}, 'warmup_steps is -1; expected'),
    ({'decay_start': -5}, 'decay_start is -5; expected'),
    ({'decay_steps': -2}, 'decay_steps is -2; expected'),
    ({'decay_power': 0}, 'decay_power is 0; expected'),
    (
      {'warmup_steps': 10, 'decay_start': 9, 'decay_steps': 1},
      'decay_start is 9, before the warm-up ends; expected 10',
    ),
  ],
)
def test_impossible_schedules_name_the_field(fields, message):
  with pytest.raises(InputError, match=message):
    schedules.mlperf(**{'learning_rate': 0.1, **fields})


@pytest.mark.parametrize('steps', [1, 7, 100])
def test_the_cosine_is_that_of_optax_one_update_later(steps):
  """Updates are counted from 1 here: the last one of the decay has rate 0."""
  ours = schedules.cosine(0.3, decay_steps=steps, decay_power=1.0)
  wanted = optax.cosine_decay_schedule(0.3, steps)
  for count in range(steps + 3):
    np.testing.assert_allclose(
      ours(jnp.int32(count)), wanted(count + 1), rtol=1e-5, atol=1e-7
    )


def test_the_cosine_comes_after_warm_up_and_hold():
  ours = schedules.cosine(0.3, 4, decay_start=6, decay_steps=10)
  got = [float(ours(jnp.int32(count))) for count in range(6)]
  np.testing.assert_allclose(got, [0.075, 0.15, 0.225, 0.3, 0.3, 0.3], 1e-6)
  wanted = optax.cosine_decay_schedule(0.3, 10)
  for count in range(6, 20):
    np.testing.assert_allclose(
      ours(jnp.int32(count)), wanted(count - 5), rtol=1e-5, atol=1e-7
    )
