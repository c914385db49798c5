"""The optimizers of a config: for the layers, and for rows of tables."""

import functools
from collections.abc import Callable

import optax
from ml_collections import ConfigDict

from dlrm_jax.config.fields import choose_one
from dlrm_jax.errors import InputError
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.schedules import mlperf

_OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
  'sgd': optax.identity,
  'adagrad': scale_by_adagrad,
  'optax_adagrad': functools.partial(optax.scale_by_rss, 0.1, 1e-7),
  'adam': optax.scale_by_adam,
}
_TABLE_OPTIMIZERS = _OPTIMIZERS | {'rowwise_adagrad': scale_by_rowwise_adagrad}


def build_optimizer(
  field: str, options: ConfigDict, of_tables: bool = False
) -> optax.GradientTransformation:
  """The transform of an optimizer, with its schedule.

  Args:
    field: of the config, that has the options.
    options: name, learning rate and schedule.
    of_tables: whether it moves rows of tables, not layers.

  Raises:
    InputError: there is no such optimizer, or no such schedule.
  """
  choices = _TABLE_OPTIMIZERS if of_tables else _OPTIMIZERS
  make = choose_one(f'{field}.name', options.name, choices)
  try:
    schedule = mlperf(
      options.learning_rate,
      options.warmup_steps,
      options.decay_start,
      options.decay_steps,
      options.decay_power,
    )
  except InputError as error:
    raise InputError(f'config.{field}.{error}') from None
  return optax.chain(make(), optax.scale_by_learning_rate(schedule))
