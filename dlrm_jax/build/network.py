"""The network of a config and a schema: all that scoring needs of a config.

Nothing here, nor below, imports what only training or preparing needs.
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from dlrm_jax.build.tables import PlacedFeatures, build_tables
from dlrm_jax.config.fields import (
  by_value,
  choose_one,
  field_value,
  whole,
  widths,
)
from dlrm_jax.data.schema import Scale, Schema
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.load import RowState
from dlrm_jax.embedding.network import Network
from dlrm_jax.errors import InputError
from dlrm_jax.models.branches import Branches
from dlrm_jax.models.dcn import DCN
from dlrm_jax.models.deepfm import DeepFM
from dlrm_jax.models.dlrm import DLRM
from dlrm_jax.models.fm import FM
from dlrm_jax.models.int8 import Int8, Operands
from dlrm_jax.models.lr import LR
from dlrm_jax.models.mf import MF
from dlrm_jax.models.mlp import Norm
from dlrm_jax.models.multitask import ESMM, MMoE, SharedBottom
from dlrm_jax.models.ncf import GMF, DeepNCF, NeuMF
from dlrm_jax.models.shapes import Shapes
from dlrm_jax.models.sparse import Form
from dlrm_jax.models.wide_deep import WideDeep

MODELS: dict[str, Any] = {
  'dlrm': DLRM,
  'lr': LR,
  'fm': FM,
  'wide_deep': WideDeep,
  'deepfm': DeepFM,
  'dcn': DCN,
  'mf': MF,
  'gmf': GMF,
  'mlp': DeepNCF,
  'neumf': NeuMF,
  'shared_bottom': SharedBottom,
  'mmoe': MMoE,
  'esmm': ESMM,
}
"""The models by name; docs/models.md has a picture of each.

Attributes of a model that `_COMMON` names come from fields of `config.model`
that all models share; its others are fields of its own, `config.model.NAME`.
"""

_COMMON = {
  'bottom': 'bottom',
  'top': 'top',
  'norm': 'norm',
  'dropout': 'dropout',
  'operands': 'compute_dtype',
}
"""Fields of `config.model` by the name of the attribute that they set."""

_INT8 = 'int8'
_FLOATS = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
_MOST_BRANCHES = 64


def _attributes(model: Any) -> dict[str, Any]:
  """Attributes of a model, and their defaults."""
  of_linen = 'parent', 'name', 'outputs'
  return {
    field.name: field.default
    for field in dataclasses.fields(model)
    if field.name not in of_linen
  }


def _own(model: Any) -> dict[str, Any]:
  return {k: x for k, x in _attributes(model).items() if k not in _COMMON}


def model_fields() -> dict[str, dict[str, Any]]:
  """The fields of each model's own, with their defaults, by its name."""
  return {
    name: {
      field: value.value if isinstance(value, enum.Enum) else value
      for field, value in _own(model).items()
    }
    for name, model in MODELS.items()
    if _own(model)
  }


def _dropout(config: ConfigDict) -> float:
  rate = config.model.dropout
  if not 0 <= rate < 1:
    raise InputError(
      f'config.model.dropout is {rate}; expected a probability, less than 1'
    )
  return rate


def _operands(config: ConfigDict) -> Operands:
  """What layers multiply."""
  fields = config.model
  activations = {'row': False, 'calibrated': True}
  int8 = Int8(
    choose_one('model.activations', fields.activations, activations),
    whole('model.outliers', fields.outliers, 0),
  )
  operands = {**_FLOATS, _INT8: int8}
  return choose_one('model.compute_dtype', fields.compute_dtype, operands)


def sparse_forms(config: ConfigDict) -> dict[str, Form]:
  """Form by name of the kernels that a loaded model multiplies as sparse ones.

  Raises:
    InputError: there is no such form, or the layers are no floats.
  """
  field, forms = 'model.sparse', {}
  for entry in config.model.sparse:
    name, _, form = str(entry).partition('=')
    forms[name] = choose_one(f'{field} of {name}', form, by_value(Form))
  if forms and config.model.compute_dtype == _INT8:
    raise InputError(
      f'config.{field} has kernels, and config.model.compute_dtype is int8; '
      f'expected float32 or bfloat16, or no such kernels'
    )
  return forms


def check_trains(config: ConfigDict) -> None:
  """Raises an `InputError` if the layers of a config can only score."""
  if config.model.compute_dtype == _INT8:
    raise InputError(
      'config.model.compute_dtype is int8, and int8 layers are for scoring; '
      'train in float32 or bfloat16, then run python -m dlrm_jax.quantize'
    )
  if config.model.sparse:
    raise InputError(
      'config.model.sparse has kernels, and sparse products are for scoring; '
      'train without it, with config.train.pruning if you like, then run '
      'python -m dlrm_jax.quantize'
    )


def _common_value(config: ConfigDict, attribute: str) -> Any:
  """The value of an attribute that models share."""
  fields = config.model
  if attribute == 'dropout':
    return _dropout(config)
  if attribute == 'norm':
    return choose_one('model.norm', fields.norm, by_value(Norm))
  if attribute == 'operands':
    return _operands(config)
  hidden = widths(config, f'model.{attribute}')
  if attribute == 'bottom':
    return (*hidden, whole('model.dim', fields.dim, 1))
  return hidden


def _own_value(config: ConfigDict, field: str, default: Any) -> Any:
  """The value of a field of a model's own, of the type of its default."""
  value = field_value(config, field)
  if isinstance(default, enum.Enum):
    return choose_one(field, value, by_value(type(default)))
  if isinstance(default, tuple):
    return widths(config, field)
  if type(default) is int:
    return whole(field, value, 0)
  return value


def build_model(config: ConfigDict, outputs: int) -> Any:
  """The layers over dense features and vectors, a linen module.

  Args:
    config: all of it.
    outputs: T, the number of logits.
  """
  name = config.model.name
  model = choose_one('model.name', name, MODELS)
  values = {
    attribute: _common_value(config, attribute)
    if attribute in _COMMON
    else _own_value(config, f'model.{name}.{attribute}', default)
    for attribute, default in _attributes(model).items()
  }
  made = model(**values, outputs=outputs)
  sparse_forms(config)  # a mistake is told before anything is read
  branches = whole('model.branches', config.model.branches, 1, _MOST_BRANCHES)
  return made if branches == 1 else Branches(made, branches)


class TrainingCosts(NamedTuple):
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


_SCORING = TrainingCosts(RowState(), _no_layers)


class PlannedNetwork(NamedTuple):
  """A network, and why its tables are placed as they are."""

  network: Network
  tables: PlacedFeatures


def plan_network(
  config: ConfigDict,
  schema: Schema,
  scale: Scale,
  training: TrainingCosts = _SCORING,
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
  roles = model.roles(whole('model.dim', config.model.dim, 1))
  of_roles = {k: (len(schema.sparse), width) for k, width in roles.items()}
  # Before the planner, which traces the layers.
  if misfit := model.misfit(Shapes(len(schema.dense), of_roles)):
    raise InputError(f'config.model.{misfit}')
  tables = build_tables(
    config,
    schema,
    roles,
    training.row_state,
    lambda features: training.layers(model, features),
  )
  network = Network(
    collection=EmbeddingCollection(tables.features, tables.shards),
    model=model,
    dense_features=len(schema.dense),
    scale=scaling,
  )
  return PlannedNetwork(network, tables)


def build_network(config: ConfigDict, schema: Schema, scale: Scale) -> Network:
  """The network of a config for scoring; see `plan_network`."""
  return plan_network(config, schema, scale).network
