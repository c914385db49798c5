"""The optimizers of a config: of the layers, and of the rows of tables.

A step's gradients are clipped (`Task.clip`) before they come here. The chain of
an optimizer is: L2 penalty, the transform of its name, weight decay, rate; that
of the layers ends with their pruning.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from dlrm_jax.config.fields import at_least, choose_one, whole
from dlrm_jax.errors import InputError
from dlrm_jax.native import Kind
from dlrm_jax.optim.adagrad import (
  EPS,
  scale_by_adagrad,
  scale_by_rowwise_adagrad,
)
from dlrm_jax.optim.block import read_block
from dlrm_jax.optim.fused import Fused
from dlrm_jax.optim.plateau import Plateau
from dlrm_jax.optim.pruning import (
  Gradual,
  Pruning,
  prune_gradually,
)
from dlrm_jax.optim.rowwise import RowTransform, rowwise
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


def _fused_adam(options: ConfigDict, rate: optax.Schedule) -> Fused:
  return Fused(Kind.ADAM, rate, options.eps, (options.b1, options.b2))


_FUSED: dict[str, Callable[[ConfigDict, optax.Schedule], Fused]] = {
  'sgd': lambda _, rate: Fused(Kind.SGD, rate),
  'adagrad': lambda _, rate: Fused(Kind.ADAGRAD, rate, EPS),
  'rowwise_adagrad': lambda _, rate: Fused(Kind.ROWWISE_ADAGRAD, rate, EPS),
  'adam': _fused_adam,
}
"""Optimizers of rows that native kernels know."""


def _kernels(params: Pytree) -> Pytree:
  """Which arrays are kernels of layers, not biases or scales of units."""
  return jax.tree.map(lambda x: x.ndim > 1, params)


class _Chain(NamedTuple):
  """An optimizer, and its parts.

  Attributes:
    tx: all of it.
    rate: its learning rate.
    plain: whether it has neither penalty nor decay.
  """

  tx: optax.GradientTransformation
  rate: optax.Schedule
  plain: bool


def _chain(section: str, config: ConfigDict, of_tables: bool) -> _Chain:
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
  tx = optax.chain(
    *([optax.add_decayed_weights(l2, mask)] if l2 else []),
    transform,
    *([optax.add_decayed_weights(decay, mask)] if decay else []),
    optax.scale_by_learning_rate(rate),
  )
  return _Chain(tx, rate, not l2 and not decay)


def build_optimizer(config: ConfigDict) -> optax.GradientTransformation:
  """The optimizer of the layers.

  Raises:
    InputError: no optimizer has the name, or a number is out of range.
  """
  tx = _chain('optimizer', config, of_tables=False).tx
  pruning = _pruning(config)
  return tx if pruning is None else optax.chain(tx, prune_gradually(*pruning))


def _pruning(config: ConfigDict) -> tuple[Pruning, Gradual] | None:
  """How and when kernels are pruned in training; None: never."""
  fields = config.train.pruning
  if not 0 <= fields.sparsity < 1:
    raise InputError(
      f'config.train.pruning.sparsity is {fields.sparsity}; expected a share '
      f'from 0, less than 1'
    )
  if not fields.sparsity:
    return None
  if config.train.plateau.patience:
    raise InputError(
      f'config.train.pruning.sparsity is {fields.sparsity}, and '
      f'config.train.plateau.patience is {config.train.plateau.patience}; '
      f'expected one of them to be 0: rates that fall would scale the updates '
      f'that make zeros'
    )
  name = 'train.pruning'
  when = Gradual(
    start=whole(f'{name}.start', fields.start, 1),
    steps=whole(f'{name}.steps', fields.steps, 0),
    every=whole(f'{name}.every', fields.every, 1),
  )
  block = read_block(f'config.{name}.block', fields.block)
  return Pruning(fields.sparsity, block), when


def build_table_optimizer(config: ConfigDict) -> RowTransform:
  """The optimizer of the rows of tables.

  Raises:
    InputError: no optimizer has the name, or a number is out of range.
  """
  chain = _chain('table_optimizer', config, of_tables=True)
  options = config.table_optimizer
  fused = None
  if chain.plain and options.name in _FUSED:
    fused = _FUSED[options.name](options, chain.rate)
  return rowwise(chain.tx, fused)


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
