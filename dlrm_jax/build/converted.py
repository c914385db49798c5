"""What a conversion from or to other programs reads of a config."""

import copy
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from dlrm_jax.errors import InputError


def names_data(config: ConfigDict) -> bool:
  """Whether a config names a click log: a prepared set, or synthetic data."""
  return config.data.kind != 'prepared' or bool(config.data.dir)


def lacks_sizes(config: ConfigDict) -> bool:
  """Whether a config names no data and does not say its sizes either."""
  return not names_data(config) and not config.data.expected.rows


def with_sizes(
  config: ConfigDict, rows: Sequence[int], dense: int
) -> ConfigDict:
  """A copy of a config that expects tables and dense features of such sizes."""
  config = copy.deepcopy(config)
  config.data.expected.rows, config.data.expected.dense = tuple(rows), dense
  return config


def check_own_start(config: ConfigDict, source: str) -> None:
  """Raises an error where a run is to start from other runs as well.

  Args:
    config: all of it.
    source: the flag that names what the first state is made of.

  Raises:
    InputError: `train.init_from` is set.
  """
  if config.train.init_from:
    raise InputError(
      f'config.train.init_from={config.train.init_from} has no effect: the '
      f'first state is that of {source}; leave it out'
    )


def optimizer_names(config: ConfigDict) -> dict[str, str]:
  """The name of the optimizer of each section: of layers, then of tables."""
  return {
    section: config[section].name
    for section in ('optimizer', 'table_optimizer')
  }


def learning_rate(config: ConfigDict) -> float:
  """The learning rate of the layers, before its schedule."""
  return config.optimizer.learning_rate


def first_key(config: ConfigDict) -> jax.Array:
  """The random key of the first state of a run."""
  return jax.random.key(config.seed)
