"""The tables of a config: their features, encodings and placements."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.build.encodings import build_encodings
from dlrm_jax.build.wanted import options_of, wanted_tables
from dlrm_jax.config.fields import by_value, choose_one, count, size, whole
from dlrm_jax.data.schema import Schema
from dlrm_jax.embedding.features import Feature, Pooling, bag_lengths
from dlrm_jax.embedding.load import RowState
from dlrm_jax.embedding.planner import Chosen, PlacementBudget, choose
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.errors import InputError

MOST_SHARDS = 1 << 16
"""Plans look at every shard; no machine has so many devices."""

_MOST_COLUMNS = 1024  # blocks of a table; plans look at every one

# From spread and columns; None: the planner chooses.
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


class Tables(NamedTuple):
  """The sparse features, and why their tables are placed as they are.

  Attributes:
    features: in the order of the schema.
    shards: S.
    chosen: placement of every table, by its name.
  """

  features: tuple[Feature, ...]
  shards: int
  chosen: Mapping[str, Chosen]


def _given(
  column: str, options: Mapping[str, Any], widths: list[int], shards: int
) -> Placement | None:
  """The placement that a feature names, or None for auto."""
  name = options['placement']
  make = choose_one(f'tables.placement (feature {column})', name, _PLACEMENTS)
  if make is None:
    return None
  spread, columns = options['spread'], options['columns']
  if name in ('table_row_wise', 'grid'):
    whole(f'tables.spread (feature {column})', spread, 1)
    if spread > shards:
      raise InputError(
        f'config.tables.spread (feature {column}) is {spread}; a table can '
        f'not be dealt over more shards than there are '
        f'(config.tables.shards={shards})'
      )
  if name in ('column_wise', 'grid'):
    whole(f'tables.columns (feature {column})', columns, 1, _MOST_COLUMNS)
    for dim in widths:
      if dim % columns:
        raise InputError(
          f'config.tables.columns (feature {column}) is {columns}; the width '
          f'{dim} of its table can not be cut into so many equal blocks'
        )
  return make(spread, columns)


class _Reader(NamedTuple):
  """A feature whose tables have no place yet.

  Attributes:
    feature: with its encoding.
    given: the placement that it names, or None for auto.
  """

  feature: Feature
  given: Placement | None


def _readers(config: ConfigDict, schema: Schema, shards: int) -> list[_Reader]:
  options = options_of(config, schema)
  encodings = build_encodings(wanted_tables(config, schema))
  found = []
  for column in schema.sparse:
    given = options[column.name]
    encoding = encodings[given['table']]
    pooling = choose_one('tables.pooling', given['pooling'], by_value(Pooling))
    feature = Feature(column.name, encoding, column.hotness, pooling)
    widths = [table.dim for table in encoding.tables]
    placement = _given(column.name, given, widths, shards)
    found.append(_Reader(feature, placement))
  return found


def _fixed(readers: list[_Reader]) -> dict[str, Placement]:
  """Placements that are given, by table."""
  found: dict[str, _Reader] = {}
  for reader in readers:
    for table in reader.feature.encoding.tables:
      first = found.setdefault(table.name, reader)
      if first.given != reader.given:
        raise InputError(
          f'config.tables.features: {first.feature.name} and '
          f'{reader.feature.name} share the table {table.name}, but place it '
          f'differently; give both the same placement'
        )
  return {name: r.given for name, r in found.items() if r.given is not None}


def build_tables(
  config: ConfigDict,
  schema: Schema,
  state: RowState,
  layers: Callable[[tuple[Feature, ...]], int],
) -> Tables:
  """The features of a schema, with their tables placed.

  Args:
    config: all of it.
    schema: the columns.
    state: of the optimizer of the tables.
    layers: bytes of a device that a step with these features needs beside
      the tables, where every shard is a device.
  """
  shards = whole('tables.shards', config.tables.shards, 1, MOST_SHARDS)
  readers = _readers(config, schema, shards)
  features = tuple(r.feature for r in readers)
  tables = {t.name: t for f in features for t in f.encoding.tables}
  memory = size('tables.memory', config.tables.memory)
  batch = count(config, 'train.batch_size', 1)
  memory = max(memory - layers(features), 0)
  budget = PlacementBudget(shards, batch, memory, state)
  hotness = bag_lengths(features)
  chosen = choose(tables.values(), hotness, _fixed(readers), budget)

  def placed(table: Table) -> Table:
    placement = chosen[table.name].placement
    return dataclasses.replace(table, placement=placement)

  moved = {e: e.placed(placed) for e in {f.encoding for f in features}}
  return Tables(
    tuple(dataclasses.replace(f, encoding=moved[f.encoding]) for f in features),
    shards,
    chosen,
  )
