"""The task of a config: its network, heads and optimizers."""

from math import inf
from typing import NamedTuple

import flax.linen as nn
from ml_collections import ConfigDict

from dlrm_jax import losses
from dlrm_jax.build.network import TrainingCosts, plan_network
from dlrm_jax.build.optimizer import (
  build_optimizer,
  build_plateau,
  build_table_optimizer,
)
from dlrm_jax.build.tables import MOST_SHARDS, PlacedFeatures
from dlrm_jax.config.fields import at_least, choose_one, count, size, whole
from dlrm_jax.data.schema import Scale, Schema
from dlrm_jax.embedding.features import Feature
from dlrm_jax.errors import InputError
from dlrm_jax.training.heads import Head
from dlrm_jax.training.memory import layers_memory, row_state
from dlrm_jax.training.state import Task

_LOSSES = {
  'bce': losses.binary_cross_entropy,
  'mse': losses.squared_error,
}


class Planned(NamedTuple):
  """A task, and why its tables are placed as they are.

  Attributes:
    task: what is trained.
    tables: its features, with the placements and the reasons for them.
    batch: number of examples of a step.
    memory: bytes of a device.
  """

  task: Task
  tables: PlacedFeatures
  batch: int
  memory: int


def _micro_batch(config: ConfigDict, batch: int) -> int | None:
  found = whole('train.micro_batch', config.train.micro_batch, 0)
  if found and batch % found:
    raise InputError(
      f'config.train.micro_batch is {found}; expected a divisor of '
      f'config.train.batch_size={batch}, or 0: whatever suits the device'
    )
  return found or None


def _label_weights(config: ConfigDict, schema: Schema) -> tuple[float, ...]:
  """The weight of each label's loss; 1 where the config does not say."""
  given, labels = tuple(config.train.label_weights), schema.labels
  if not given:
    return (1.0,) * len(labels)
  numbers = all(isinstance(x, int | float) and 0 <= x < inf for x in given)
  if len(given) != len(labels) or not numbers or not any(given):
    raise InputError(
      f'config.train.label_weights is {given}; expected a number of 0 or more '
      f'for each label ({", ".join(labels)}), one of them above 0'
    )
  return tuple(map(float, given))


def build_plan(config: ConfigDict, schema: Schema, scale: Scale) -> Planned:
  """Builds the task of a config for the columns of a schema."""
  batch = count(config, 'train.batch_size', 1)
  table_tx = build_table_optimizer(config)
  shards = whole('tables.shards', config.tables.shards, 1, MOST_SHARDS)
  micro_batch = _micro_batch(config, batch)

  def layers(model: nn.Module, features: tuple[Feature, ...]) -> int:
    return layers_memory(
      model, len(schema.dense), features, -(-batch // shards), micro_batch
    )

  network, tables = plan_network(
    config, schema, scale, TrainingCosts(row_state(table_tx), layers)
  )
  loss = choose_one('train.loss', config.train.loss, _LOSSES)
  task = Task(
    network=network,
    heads=tuple(
      Head(loss, name, weight)
      for name, weight in zip(
        schema.labels, _label_weights(config, schema), strict=True
      )
    ),
    tx=build_optimizer(config),
    table_tx=table_tx,
    micro_batch=micro_batch,
    clip=at_least(config, 'train.clip', 0) or None,
    bag_l2=at_least(config, 'tables.bag_l2', 0),
    plateau=build_plateau(config),
    seed=at_least(config, 'seed', 0),
  )
  if network.normalises_batches and micro_batch:
    raise InputError(
      f'config.train.micro_batch is {micro_batch}, and config.model.norm is '
      f"batch; batch normalisation takes a device's whole part of a batch at "
      f'once: leave train.micro_batch 0, or choose norm layer or none'
    )
  memory = size('tables.memory', config.tables.memory)
  return Planned(task, tables, batch, memory)


def build_task(config: ConfigDict, schema: Schema, scale: Scale) -> Task:
  """The task of a config; `build_plan` also says why tables are placed so."""
  return build_plan(config, schema, scale).task
