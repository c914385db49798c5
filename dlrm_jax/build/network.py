"""The network of a config and a schema: all that scoring needs of a config.

Nothing here, nor below, imports what only training or preparing needs.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from dlrm_jax.build.tables import PlacedFeatures, build_tables
from dlrm_jax.config.fields import by_value, choose_one, whole, widths
from dlrm_jax.data.schema import Scale, Schema
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.load import RowState
from dlrm_jax.embedding.network import Network
from dlrm_jax.errors import InputError
from dlrm_jax.models.dlrm import DLRM, Interaction

_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


class Training(NamedTuple):
  """What training needs of a device's memory beside the values of tables.

  The planner of placements takes it into account.

  Attributes:
    row_state: optimizer state of a row.
    layers: bytes that a step needs for the layers of a model with these
      features.
  """

  row_state: RowState
  layers: Callable[[nn.Module, tuple[Feature, ...]], int]


def _no_layers(model: nn.Module, features: tuple[Feature, ...]) -> int:
  del model, features
  return 0


_SCORING = Training(RowState(), _no_layers)


class PlannedNetwork(NamedTuple):
  """A network, and why its tables are placed as they are."""

  network: Network
  tables: PlacedFeatures


def build_model(config: ConfigDict, outputs: int) -> DLRM:
  """The layers over dense features and vectors.

  Args:
    config: all of it.
    outputs: T, the number of logits.
  """
  fields = config.model
  dim = whole('model.dim', fields.dim, 1)
  return DLRM(
    bottom=(*widths(config, 'model.bottom'), dim),
    top=widths(config, 'model.top'),
    interaction=choose_one(
      'model.interaction', fields.interaction, by_value(Interaction)
    ),
    dtype=choose_one('model.compute_dtype', fields.compute_dtype, _DTYPES),
    outputs=outputs,
  )


def plan_network(
  config: ConfigDict,
  schema: Schema,
  scale: Scale,
  training: Training = _SCORING,
) -> PlannedNetwork:
  """Builds a network and places its tables.

  Args:
    config: all of it.
    schema: the columns of the data.
    scale: mean and deviation of its dense features.
    training: what training needs; the default is scoring alone. It changes
      where tables are placed, never what the network computes.

  Raises:
    InputError: a field is wrong, or the model cannot take such columns.
  """
  scaling = choose_one(
    'model.dense_scaling',
    config.model.dense_scaling,
    {'none': None, 'standard': scale},
  )
  model = build_model(config, len(schema.labels))
  tables = build_tables(
    config,
    schema,
    training.row_state,
    lambda features: training.layers(model, features),
  )
  network = Network(
    collection=EmbeddingCollection(tables.features, tables.shards),
    model=model,
    dense_features=len(schema.dense),
    scale=scaling,
  )
  if misfit := model.misfit(network.shapes):
    raise InputError(f'config.model.{misfit}')
  return PlannedNetwork(network, tables)


def build_network(config: ConfigDict, schema: Schema, scale: Scale) -> Network:
  """The network of a config for scoring; see `plan_network`."""
  return plan_network(config, schema, scale).network
