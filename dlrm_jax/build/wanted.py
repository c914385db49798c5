"""What is asked for of every table: the fields of a config, put together.

A feature has its own fields, or those of all; features that share a table
must ask for the same.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.config.fields import at_least, choose_one, whole
from dlrm_jax.data.schema import Schema
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.table import Table, uniform_by_cells
from dlrm_jax.errors import InputError

FIELDS = (
  'encoding',
  'combine',
  'compression',
  'rows',
  'parts',
  'buckets',
  'threshold',
  'hidden',
  'rank',
  'alpha',
  'partitions',
  'multi_hot',
)
"""Fields of config.tables, and of each feature, that encodings are made of."""

_FIELDS = (*FIELDS, 'columns', 'placement', 'pooling', 'spread', 'table')


class Wanted(NamedTuple):
  """What is asked for of a table.

  Attributes:
    name: of the table.
    feature: one that reads it, for messages.
    ids: n.
    dim: D.
    bound: of the plain table's first values.
    options: the fields.
  """

  name: str
  feature: str
  ids: int
  dim: int
  bound: float
  options: Mapping[str, Any]

  def whole(self, field: str, least: int) -> int:
    """A field that is a whole number."""
    where = f'tables.{field} (feature {self.feature})'
    return whole(where, self.options[field], least)

  def choose(self, field: str, choices: Mapping[str, Any]) -> Any:
    """What the word of a field stands for."""
    where = f'tables.{field} (feature {self.feature})'
    return choose_one(where, self.options[field], choices)

  @property
  def plain(self) -> Plain:
    """A row an id."""
    return Plain(self.table('', self.ids, self.dim, self.bound))

  @property
  def small(self) -> bool:
    """Whether it is left plain in any case."""
    return self.ids <= self.whole('threshold', 0)

  @property
  def budget(self) -> int:
    """Parameters that are asked for."""
    rows = self.whole('rows', 0)
    if rows:
      return rows * self.dim
    ratio = self.options['compression']
    if not isinstance(ratio, int | float) or not 1 <= ratio < 2**31:
      raise InputError(
        f'config.tables.compression (feature {self.feature}) is {ratio!r}; '
        f'expected how many times fewer parameters, 1 or more'
      )
    return int(self.ids * self.dim / ratio)

  @property
  def buckets(self) -> tuple[int, ...]:
    """Sizes that are asked for, if any."""
    asked = self.options['buckets']
    if not isinstance(asked, list | tuple) or not all(
      type(m) is int and 0 <= m < 2**31 for m in asked
    ):
      raise InputError(
        f'config.tables.buckets (feature {self.feature}) is {asked!r}; '
        f'expected whole numbers, such as (1000, 0): 0 is as many as it takes'
      )
    return tuple(asked)

  def at_least(self, least: int) -> int:
    """The budget; or the least possible, where a ratio asks for too much."""
    rows, budget = self.options['rows'], self.budget
    if rows and budget < least:
      raise InputError(
        f'rows={rows}, a budget of {budget:,} parameters is too small: it '
        f'takes rows={-(-least // self.dim)} or more'
      )
    return max(budget, least)

  def table(self, part: str, rows: int, dim: int, bound: float) -> Table:
    """A table for a part of the encoding."""
    name = f'{self.name}.{part}' if part else self.name
    return Table(name, rows, dim, uniform_by_cells, bound=bound)


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


def options_of(config: ConfigDict, schema: Schema) -> dict[str, dict[str, Any]]:
  """The fields of every feature, its own or those of all."""
  fields, overrides = config.tables, config.tables.features.to_dict()
  _check_overrides(overrides, schema)
  common = {name: fields[name] for name in _FIELDS if name != 'table'}
  return {
    c.name: common | {'table': c.name} | overrides.get(c.name, {})
    for c in schema.sparse
  }


def wanted_tables(config: ConfigDict, schema: Schema) -> list[Wanted]:
  """What is asked for of every table, whoever reads it."""
  options = options_of(config, schema)
  scale = at_least(config, 'tables.init_scale', 0)
  dim = whole('model.dim', config.model.dim, 1)
  ids: dict[str, int] = {}
  first: dict[str, str] = {}
  for column in schema.sparse:
    name = options[column.name]['table']
    ids[name] = max(ids.get(name, 0), column.rows)
    a = first.setdefault(name, column.name)
    if a == column.name:
      continue
    for field in FIELDS:
      if options[a][field] != options[column.name][field]:
        raise InputError(
          f'config.tables.features: {a} and {column.name} share the table '
          f'{name}, but {field} is {options[a][field]!r} and '
          f'{options[column.name][field]!r}; give both the same'
        )
  return [
    Wanted(
      name, first[name], n, dim, scale / math.sqrt(n), options[first[name]]
    )
    for name, n in ids.items()
  ]
