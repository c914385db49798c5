"""The tables of a config: their features, encodings and placements."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.build.encodings import build_encodings
from dlrm_jax.build.wanted import name_in_role, options_of, wanted_tables
from dlrm_jax.config.fields import by_value, choose_one, count, size, whole
from dlrm_jax.data.schema import Schema
from dlrm_jax.embedding.encoding import Encoding
from dlrm_jax.embedding.features import Feature, Pooling, bag_lengths
from dlrm_jax.embedding.load import RowState
from dlrm_jax.embedding.low_precision import STATES, STORAGES
from dlrm_jax.embedding.planner import Chosen, PlacementBudget, choose
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.errors import InputError

MOST_SHARDS = 1 << 16
"""Most shards allowed; the planner looks at every one."""

MOST_DENSE = 1 << 24
"""Most numbers of a table with a dense update: its gradient is as large."""

_MOST_COLUMNS = 1024  # blocks of a table; the planner looks at every one

# Placement as a function of spread and columns; None: the planner chooses.
_PLACEMENTS: dict[str, Callable[[int, int], Placement] | None] = {
  'auto': None,
  'row_wise': lambda spread, columns: Placement(),
  'table_wise': lambda spread, columns: Placement(1),
  'table_row_wise': lambda spread, columns: Placement(spread),
  'column_wise': lambda spread, columns: Placement(1, columns),
  'grid': lambda spread, columns: Placement(spread, columns),
  'replicated': lambda spread, columns: Placement(replicated=True),
  'independent': lambda spread, columns: Placement(independent=True),
}


class PlacedFeatures(NamedTuple):
  """The sparse features and the placement of their tables.

  Attributes:
    features: for each role the features in the order of the schema; their
      tables are placed.
    shards: S, the number of shards.
    chosen: placement of every table and its reason, by name of the table.
  """

  features: tuple[Feature, ...]
  shards: int
  chosen: Mapping[str, Chosen]


def _fixed_placement(
  column: str, options: Mapping[str, Any], widths: list[int], shards: int
) -> Placement | None:
  """The placement that the fields of a feature name; None: auto."""
  name = options['placement']
  placement_of = choose_one(
    f'tables.placement (feature {column})', name, _PLACEMENTS
  )
  dense = choose_one(
    f'tables.update (feature {column})',
    options['update'],
    {'sparse': False, 'dense': True},
  )
  if dense:
    if name not in ('auto', 'replicated'):
      raise InputError(
        f'config.tables.update (feature {column}) is dense, and '
        f'config.tables.placement is {name}; a dense update needs a copy on '
        f'every device: expected placement auto or replicated'
      )
    return Placement(replicated=True, dense=True)
  if placement_of is None:
    return None
  spread, columns = options['spread'], options['columns']
  if name in ('table_row_wise', 'grid'):
    whole(f'tables.spread (feature {column})', spread, 1)
    if spread > shards:
      raise InputError(
        f'config.tables.spread (feature {column}) is {spread}; a table '
        f'cannot be dealt over more shards than there are '
        f'(config.tables.shards={shards})'
      )
  if max(widths) == 1:
    columns = 1  # a weight for each id has nothing to cut
  if name in ('column_wise', 'grid'):
    whole(f'tables.columns (feature {column})', columns, 1, _MOST_COLUMNS)
    for dim in widths:
      if dim % columns:
        raise InputError(
          f'config.tables.columns (feature {column}) is {columns}; the width '
          f'{dim} of its table cannot be cut into so many equal blocks'
        )
  return placement_of(spread, columns)


class _Unplaced(NamedTuple):
  """A feature whose tables are not placed yet.

  Attributes:
    feature: the feature with its encoding.
    fixed: the placement that the config names; None: auto.
  """

  feature: Feature
  fixed: Placement | None


def _unplaced(
  config: ConfigDict, schema: Schema, roles: Mapping[str, int], shards: int
) -> list[_Unplaced]:
  options = options_of(config, schema)
  encodings = build_encodings(
    {
      role: wanted_tables(config, schema, role, width)
      for role, width in roles.items()
    }
  )
  features = []
  for role, column in itertools.product(roles, schema.sparse):
    own = options[column.name]
    encoding = encodings[name_in_role(own['table'], role)]
    feature = Feature(
      name_in_role(column.name, role),
      encoding,
      column.hotness,
      choose_one('tables.pooling', own['pooling'], by_value(Pooling)),
      column.name,
      role,
    )
    feature = dataclasses.replace(
      feature, encoding=_stored(column.name, encoding, own)
    )
    encoding = feature.encoding
    widths = [table.dim for table in encoding.tables]
    fixed = _fixed_placement(column.name, own, widths, shards)
    if fixed is not None and fixed.dense:
      _check_dense(column.name, encoding)
    features.append(_Unplaced(feature, fixed))
  return features


def _stored(
  column: str, encoding: Encoding, options: Mapping[str, Any]
) -> Encoding:
  """An encoding whose tables and their states are kept as the config says.

  Tables whose rows would not become smaller stay float32.
  """
  where, name = f'tables.storage (feature {column})', options['storage']
  storage = choose_one(where, name, STORAGES)
  state = choose_one(
    f'tables.state (feature {column})', options['state'], STATES
  )

  def stored(table: Table) -> Table:
    table = dataclasses.replace(table, state=state)
    if table.dim == 1:  # a scale for each weight saves nothing
      return table
    try:
      smaller = storage.row_bytes(table.dim) < FLOAT32.row_bytes(table.dim)
    except InputError as error:
      raise InputError(f'config.{where} is {name}: {error}') from None
    return dataclasses.replace(table, storage=storage) if smaller else table

  return encoding.placed(stored)


def _check_dense(column: str, encoding: Encoding) -> None:
  for table in encoding.tables:
    if table.rows * table.dim > MOST_DENSE:
      raise InputError(
        f'config.tables.update (feature {column}) is dense, and its table '
        f'{table.name} has {table.rows:,} x {table.dim} numbers; a dense '
        f'update makes a gradient of that size in every step: expected at '
        f'most {MOST_DENSE:,} numbers, or sparse'
      )


def _fixed_placements(unplaced: list[_Unplaced]) -> dict[str, Placement]:
  """The placements that the config names, by name of the table."""
  first: dict[str, _Unplaced] = {}
  for this in unplaced:
    for table in this.feature.encoding.tables:
      other = first.setdefault(table.name, this)
      if other.fixed != this.fixed:
        raise InputError(
          f'config.tables.features: {other.feature.name} and '
          f'{this.feature.name} share the table {table.name}, but place it '
          f'differently; give both the same placement'
        )
  return {name: u.fixed for name, u in first.items() if u.fixed is not None}


def build_tables(
  config: ConfigDict,
  schema: Schema,
  roles: Mapping[str, int],
  state: RowState,
  layers: Callable[[tuple[Feature, ...]], int],
) -> PlacedFeatures:
  """The features of a schema, with their tables placed.

  Args:
    config: the whole config.
    schema: the columns of the data.
    roles: the width of the vectors of each role of the model.
    state: what the optimizer of the tables keeps for each row.
    layers: function from features to the bytes that a step needs on a device
      beside the tables, if every shard is a device.
  """
  shards = whole('tables.shards', config.tables.shards, 1, MOST_SHARDS)
  unplaced = _unplaced(config, schema, roles, shards)
  features = tuple(u.feature for u in unplaced)
  tables = {t.name: t for f in features for t in f.encoding.tables}
  memory = size('tables.memory', config.tables.memory)
  batch = count(config, 'train.batch_size', 1)
  memory = max(memory - layers(features), 0)
  budget = PlacementBudget(shards, batch, memory, state)
  hotness = bag_lengths(features)
  chosen = choose(tables.values(), hotness, _fixed_placements(unplaced), budget)

  def placed(table: Table) -> Table:
    placement = chosen[table.name].placement
    return dataclasses.replace(table, placement=placement)

  moved = {e: e.placed(placed) for e in {f.encoding for f in features}}
  return PlacedFeatures(
    tuple(dataclasses.replace(f, encoding=moved[f.encoding]) for f in features),
    shards,
    chosen,
  )
