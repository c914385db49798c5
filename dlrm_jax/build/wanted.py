"""The fields of a config that describe the encoding of each table.

A field of `config.tables.features.NAME` replaces the common one of
`config.tables` for that feature. Features that share a table must have equal
fields.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.config.fields import at_least, choose_one, whole
from dlrm_jax.data.schema import Schema
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.table import (
  Initializer,
  Table,
  normal_by_cells,
  uniform_by_cells,
)
from dlrm_jax.errors import InputError
from dlrm_jax.models.shapes import LINEAR, VECTORS

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
"""Fields of config.tables, and of single features, that encodings depend on."""

_MOST_PARTS = 16

# All fields that a single feature may have.
_FEATURE_FIELDS = (
  *FIELDS,
  'columns',
  'placement',
  'pooling',
  'spread',
  'state',
  'storage',
  'table',
  'update',
)

_INITIALIZERS = {'uniform': uniform_by_cells, 'normal': normal_by_cells}


class Wanted(NamedTuple):
  """The request of a config for the encoding of one table.

  Attributes:
    name: name of the table.
    feature: name of a feature that reads the table, for messages.
    ids: n, the number of ids.
    dim: D, the width of vectors.
    bound: largest magnitude of the initial values of a plain table; their
      deviation, where they are normal.
    options: the values of `FIELDS`.
    init: function that makes initial values.
    role: role of the vectors.
  """

  name: str
  feature: str
  ids: int
  dim: int
  bound: float
  options: Mapping[str, Any]
  init: Initializer = uniform_by_cells
  role: str = VECTORS

  def whole(self, field: str, least: int) -> int:
    """The whole number in a field, which must be at least `least`."""
    where = f'tables.{field} (feature {self.feature})'
    return whole(where, self.options[field], least)

  def choose(self, field: str, choices: Mapping[str, Any]) -> Any:
    """The choice that the word in a field names."""
    where = f'tables.{field} (feature {self.feature})'
    return choose_one(where, self.options[field], choices)

  @property
  def plain(self) -> Plain:
    """The encoding with a row for each id."""
    return Plain(self.table('', self.ids, self.dim, self.bound))

  @property
  def small(self) -> bool:
    """Whether the table stays plain under every encoding."""
    return self.ids <= self.whole('threshold', 0)

  @property
  def budget(self) -> int:
    """The number of parameters that `rows` or `compression` allows."""
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
    """The value of `buckets`; empty where they follow from the budget."""
    asked = self.options['buckets']
    if not isinstance(asked, list | tuple) or not all(
      type(m) is int and 0 <= m < 2**31 for m in asked
    ):
      raise InputError(
        f'config.tables.buckets (feature {self.feature}) is {asked!r}; '
        f'expected whole numbers, such as (1000, 0): 0 is as many as are needed'
      )
    return tuple(asked)

  def at_least(self, least: int) -> int:
    """The budget, raised to `least` where `compression` is impossibly high.

    Raises:
      InputError: `rows` allows fewer parameters than `least`.
    """
    rows, budget = self.options['rows'], self.budget
    if rows and budget < least:
      raise InputError(
        f'rows={rows}, a budget of {budget:,} parameters is too small: '
        f'expected rows={-(-least // self.dim)} or more'
      )
    return max(budget, least)

  def parts(self, usual: int, least: int) -> int:
    """The number of parts: the field `parts`, or `usual` where that is 0."""
    parts = self.whole('parts', 0)
    if parts and not least <= parts <= _MOST_PARTS:
      raise InputError(
        f'config.tables.parts (feature {self.feature}) is {parts}; expected '
        f'{least} to {_MOST_PARTS}, or 0 for {usual}'
      )
    return parts or usual

  def table(self, part: str, rows: int, dim: int, bound: float) -> Table:
    """A table of the encoding; `part` is its suffix, '' for an only table."""
    name = f'{self.name}.{part}' if part else self.name
    return Table(name, rows, dim, self.init, bound=bound)


def _check_overrides(overrides: Mapping[str, Any], schema: Schema) -> None:
  names = [column.name for column in schema.sparse]
  for name, fields in overrides.items():
    if name not in names:
      raise InputError(
        f'config.tables.features.{name}: the data has no such feature; it '
        f'has {", ".join(names)}'
      )
    if not isinstance(fields, Mapping):
      raise InputError(
        f'config.tables.features.{name} is {fields!r}; expected fields, such '
        f"as {{'encoding': 'hashed', 'rows': 1000}}"
      )
    for field in fields.keys() - set(_FEATURE_FIELDS):
      raise InputError(
        f'config.tables.features.{name}.{field}: no such field; expected '
        f'one of {", ".join(_FEATURE_FIELDS)}'
      )


def options_of(config: ConfigDict, schema: Schema) -> dict[str, dict[str, Any]]:
  """The fields of each feature, by its name: its own or the common ones."""
  fields, overrides = config.tables, config.tables.features.to_dict()
  _check_overrides(overrides, schema)
  common = {name: fields[name] for name in _FEATURE_FIELDS if name != 'table'}
  return {
    c.name: common | {'table': c.name} | overrides.get(c.name, {})
    for c in schema.sparse
  }


def name_in_role(name: str, role: str) -> str:
  """The name of a table, or a feature, in a role.

  >>> name_in_role('user', 'vectors'), name_in_role('user', 'linear')
  ('user', 'user.linear')
  """
  return name if role == VECTORS else f'{name}.{role}'


def _of_weights(options: Mapping[str, Any]) -> dict[str, Any]:
  """Options of a table of width 1, as close to the given ones as they can be.

  There is nothing to multiply or to concatenate in a single number, and
  nothing to narrow: parts are added, and mixed dimensions leave it plain.
  """
  encoding = options['encoding']
  changed = {'combine': 'add', 'multi_hot': 'combine_then_pool'}
  if encoding == 'mixed_dims':
    changed['encoding'] = 'plain'
  elif encoding in ('tensor_train', 'robe'):
    changed |= {'encoding': 'quotient_remainder', 'parts': 0, 'rows': 0}
  return {**options, **changed}


def wanted_tables(
  config: ConfigDict,
  schema: Schema,
  role: str = VECTORS,
  width: int | None = None,
) -> list[Wanted]:
  """The request for each table of a role, in the order of the features.

  Args:
    config: all of it.
    schema: the columns of the data.
    role: role of the vectors.
    width: their width; None: `config.model.dim`.
  """
  options = options_of(config, schema)
  scale = at_least(config, 'tables.init_scale', 0)
  init = choose_one('tables.init', config.tables.init, _INITIALIZERS)
  dim = whole('model.dim', config.model.dim, 1) if width is None else width
  ids: dict[str, int] = {}
  first: dict[str, str] = {}
  for column in schema.sparse:
    name = options[column.name]['table']
    ids[name] = max(ids.get(name, 0), column.rows)
    a = first.setdefault(name, column.name)
    if a == column.name:
      continue
    for field in (*FIELDS, 'storage', 'state'):
      if options[a][field] != options[column.name][field]:
        raise InputError(
          f'config.tables.features: {a} and {column.name} share the table '
          f'{name}, but {field} is {options[a][field]!r} and '
          f'{options[column.name][field]!r}; give both the same'
        )
  return [
    Wanted(
      name=name_in_role(name, role),
      feature=first[name],
      ids=n,
      dim=dim,
      bound=scale if init is normal_by_cells else scale / math.sqrt(n),
      options=_of_weights(options[first[name]])
      if role.split('.')[0] == LINEAR
      else options[first[name]],
      init=init,
      role=role,
    )
    for name, n in ids.items()
  ]
