"""The tables of a config: their features, encodings and placements."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.data.schema import Column, Schema
from dlrm_jax.embedding.encoding import Encoding, Hashed, Plain
from dlrm_jax.embedding.features import Feature, Pooling
from dlrm_jax.embedding.load import RowState
from dlrm_jax.embedding.planner import Budget, Chosen, choose
from dlrm_jax.embedding.table import Placement, Table, uniform_by_cells
from dlrm_jax.errors import InputError
from dlrm_jax.fields import at_least, by_value, choose_one, size, whole

_FIELDS = (
  'columns',
  'encoding',
  'placement',
  'pooling',
  'rows',
  'spread',
  'table',
)
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


def _check_overrides(overrides: Mapping[str, Any], schema: Schema) -> None:
  names = [column.name for column in schema.sparse]
  for name, given in overrides.items():
    if name not in names:
      raise InputError(
        f'config.tables.features.{name}: the data has no such feature; it '
        f'has {", ".join(names)}'
      )
    if not isinstance(given, Mapping):
      raise InputError(
        f'config.tables.features.{name} is {given!r}; expected fields, such '
        f"as {{'encoding': 'hashed', 'rows': 1000}}"
      )
    for field in given.keys() - set(_FIELDS):
      raise InputError(
        f'config.tables.features.{name}.{field}: no such field; expected '
        f'one of {", ".join(_FIELDS)}'
      )


def _encoding(
  feature: str, plain: Table, name: str, rows: int
) -> tuple[Callable[[Table], Encoding], Table]:
  """The encoding of this name and its table.

  Args:
    feature: for messages.
    plain: the table with a row an id.
    name: of the encoding.
    rows: to hash into.
  """
  where = f'tables.encoding (feature {feature})'
  if not choose_one(where, name, {'plain': False, 'hashed': True}):
    return Plain, plain
  if rows < 1:
    raise InputError(
      f'config.tables.rows (feature {feature}) is {rows}; the encoding hashed '
      f'needs the number of rows to hash into'
    )
  if plain.rows <= rows:
    return Plain, plain
  return Hashed, dataclasses.replace(plain, rows=rows)


def _given(
  column: str, options: Mapping[str, Any], dim: int, shards: int
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
    whole(f'tables.columns (feature {column})', columns, 1)
    if dim % columns:
      raise InputError(
        f'config.tables.columns (feature {column}) is {columns}; the width '
        f'{dim} (config.model.dim) can not be cut into so many equal blocks'
      )
  return make(spread, columns)


class _Reader(NamedTuple):
  """A feature whose table has no place yet.

  Attributes:
    column: of the data.
    make: its encoding, from the table.
    table: that it reads.
    pooling: of its bags.
    given: the placement that it names, or None for auto.
  """

  column: Column
  make: Callable[[Table], Encoding]
  table: Table
  pooling: Pooling
  given: Placement | None


def _readers(config: ConfigDict, schema: Schema, shards: int) -> list[_Reader]:
  fields, overrides = config.tables, config.tables.features.to_dict()
  _check_overrides(overrides, schema)
  common = {name: fields[name] for name in _FIELDS if name != 'table'}
  options = {
    c.name: common | {'table': c.name} | overrides.get(c.name, {})
    for c in schema.sparse
  }
  rows: dict[str, int] = {}  # that a table must have for its readers
  for column in schema.sparse:
    name = options[column.name]['table']
    rows[name] = max(rows.get(name, 0), column.rows)
  init = functools.partial(
    uniform_by_cells, scale=at_least(config, 'tables.init_scale', 0)
  )
  found = []
  for column in schema.sparse:
    given = options[column.name]
    plain = Table(given['table'], rows[given['table']], config.model.dim, init)
    encoding = given['encoding'], given['rows']
    make, table = _encoding(column.name, plain, *encoding)
    pooling = choose_one('tables.pooling', given['pooling'], by_value(Pooling))
    placement = _given(column.name, given, table.dim, shards)
    found.append(_Reader(column, make, table, pooling, placement))
  return found


def _fixed(readers: list[_Reader]) -> dict[str, Placement]:
  """Placements that are given, by table."""
  found: dict[str, _Reader] = {}
  for reader in readers:
    first = found.setdefault(reader.table.name, reader)
    if first.given != reader.given:
      raise InputError(
        f'config.tables.features: {first.column.name} and '
        f'{reader.column.name} share the table {reader.table.name}, but place '
        f'it differently; give both the same placement'
      )
  return {name: r.given for name, r in found.items() if r.given is not None}


def build_tables(
  config: ConfigDict, schema: Schema, state: RowState, layers: int
) -> Tables:
  """The features of a schema, with their tables placed.

  Args:
    config: all of it.
    schema: the columns.
    state: of the optimizer of the tables.
    layers: bytes of a device that a step needs beside the tables, where
      every shard is a device.
  """
  shards = whole('tables.shards', config.tables.shards, 1)
  readers = _readers(config, schema, shards)
  tables = {r.table.name: r.table for r in readers}
  hotness: dict[str, tuple[int, ...]] = dict.fromkeys(tables, ())
  for r in readers:
    hotness[r.table.name] += (r.column.hotness,)
  memory = size('tables.memory', config.tables.memory)
  batch = at_least(config, 'train.batch_size', 1)
  budget = Budget(shards, batch, max(memory - layers, 0), state)
  chosen = choose(tables.values(), hotness, _fixed(readers), budget)

  def placed(table: Table) -> Table:
    placement = chosen[table.name].placement
    return dataclasses.replace(table, placement=placement)

  features = tuple(
    Feature(r.column.name, r.make(placed(r.table)), r.column.hotness, r.pooling)
    for r in readers
  )
  return Tables(features, shards, chosen)
