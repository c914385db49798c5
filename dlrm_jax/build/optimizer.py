"""The optimizers of a config: of the layers, and of the rows of tables."""

from collections.abc import Callable

import optax
from ml_collections import ConfigDict

from dlrm_jax.config.fields import choose_one
from dlrm_jax.errors import InputError
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.schedules import mlperf


def _adam(options: ConfigDict) -> optax.GradientTransformation:
  for field in ('b1', 'b2'):
    if not 0 <= options[field] < 1:
      raise InputError(
        f'{field} is {options[field]}; expected a number from 0, less than 1'
      )
  if not 0 < options.eps < float('inf'):
    raise InputError(f'eps is {options.eps}; expected a number above 0')
  return optax.scale_by_adam(options.b1, options.b2, options.eps)


_OPTIMIZERS: dict[str, Callable[[ConfigDict], optax.GradientTransformation]] = {
  'sgd': lambda _: optax.identity(),
  'adagrad': lambda _: scale_by_adagrad(),
  'optax_adagrad': lambda _: optax.scale_by_rss(0.1, 1e-7),
  'adam': _adam,
}
_TABLE_OPTIMIZERS = _OPTIMIZERS | {
  'rowwise_adagrad': lambda _: scale_by_rowwise_adagrad()
}


def build_optimizer(
  section: str, options: ConfigDict, of_tables: bool = False
) -> optax.GradientTransformation:
  """The transform of an optimizer, with its schedule.

  Args:
    section: name of the section of the config that has the options.
    options: the fields of that section.
    of_tables: whether the optimizer updates rows of tables, not layers.

  Raises:
    InputError: no optimizer has the name, or a number is out of range.
  """
  choices = _TABLE_OPTIMIZERS if of_tables else _OPTIMIZERS
  build = choose_one(f'{section}.name', options.name, choices)
  try:
    schedule = mlperf(
      options.learning_rate,
      options.warmup_steps,
      options.decay_start,
      options.decay_steps,
      options.decay_power,
    )
    transform = build(options)
  except InputError as error:
    raise InputError(f'config.{section}: {error}') from None
  return optax.chain(transform, optax.scale_by_learning_rate(schedule))
