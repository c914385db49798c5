"""The optimizers of a config: of the layers, and of the rows of tables.

A step's gradients are clipped (`Task.clip`) before they come here. The chain of
an optimizer is: L2 penalty, the transform of its name, weight decay, rate.
"""

from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict

from dlrm_jax.config.fields import at_least, choose_one, whole
from dlrm_jax.errors import InputError
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.plateau import Plateau
from dlrm_jax.optim.schedules import cosine, mlperf
from dlrm_jax.rows import Pytree


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
_DECAYS = {'polynomial': mlperf, 'cosine': cosine}


def _kernels(params: Pytree) -> Pytree:
  """Which arrays are kernels of layers, not biases or scales of units."""
  return jax.tree.map(lambda x: x.ndim > 1, params)


def build_optimizer(
  section: str, config: ConfigDict, of_tables: bool = False
) -> optax.GradientTransformation:
  """The transform of an optimizer, with its schedule.

  Args:
    section: name of the section of the config that has the options.
    config: all of it.
    of_tables: whether the optimizer updates rows of tables, not layers.

  Raises:
    InputError: no optimizer has the name, or a number is out of range.
  """
  options = config[section]
  choices = _TABLE_OPTIMIZERS if of_tables else _OPTIMIZERS
  build = choose_one(f'{section}.name', options.name, choices)
  schedule_of = choose_one(f'{section}.decay', options.decay, _DECAYS)
  l2 = at_least(config, 'tables.l2' if of_tables else 'model.l2', 0)
  decay = at_least(config, f'{section}.weight_decay', 0)
  try:
    rate = schedule_of(
      options.learning_rate,
      options.warmup_steps,
      options.decay_start,
      options.decay_steps,
      options.decay_power,
    )
    transform = build(options)
  except InputError as error:
    raise InputError(f'config.{section}: {error}') from None
  mask = None if of_tables else _kernels
  # Without penalty and decay the state has the form that it had before them.
  return optax.chain(
    *([optax.add_decayed_weights(l2, mask)] if l2 else []),
    transform,
    *([optax.add_decayed_weights(decay, mask)] if decay else []),
    optax.scale_by_learning_rate(rate),
  )


def build_plateau(config: ConfigDict) -> Plateau | None:
  """How learning rates fall where validation does not improve; None: never."""
  patience = whole('train.plateau.patience', config.train.plateau.patience, 0)
  if not patience:
    return None
  for field in ('factor', 'least'):
    value = config.train.plateau[field]
    if not 0 < value < 1:
      raise InputError(
        f'config.train.plateau.{field} is {value}; expected a number between 0 '
        f'and 1'
      )
  fields = config.train.plateau
  return Plateau(fields.factor, patience, fields.least)
