"""Optimizers of a config: Adam's numbers, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlrm_jax.build.optimizer import build_optimizer
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError


def adam(**fields):
  config = default.get_config()
  config.optimizer.name = 'adam'
  config.optimizer.update(fields)
  return build_optimizer(config)


# Optax's Adam itself relies on promotion.
@jax.numpy_dtype_promotion('standard')
@pytest.mark.parametrize('fields', [{}, {'b1': 0.5, 'b2': 0.9, 'eps': 0.1}])
def test_adam_is_that_of_optax_with_the_numbers_of_the_config(fields):
  tx, expected = adam(**fields), optax.adam(0.1, **fields)
  params = jnp.array([1.0, 2.0])
  state, expected_state = tx.init(params), expected.init(params)
  for grads in (jnp.array([0.5, -3.0]), jnp.array([-0.1, 7.0])):
    updates, state = tx.update(grads, state)
    same, expected_state = expected.update(grads, expected_state)
    np.testing.assert_array_equal(updates, same)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('b1', 1.0, 'b1 is 1.0; expected a number from 0, less than 1'),
    ('b2', -0.1, 'b2 is -0.1; expected a number from 0, less than 1'),
    ('eps', 0.0, 'eps is 0.0; expected a number above 0'),
    ('learning_rate', -1.0, 'learning_rate is -1.0; expected a number of 0'),
  ],
)
def test_numbers_out_of_range_are_refused_by_field(field, value, message):
  with pytest.raises(InputError, match=f'^config.optimizer: {message}'):
    adam(**{field: value})
