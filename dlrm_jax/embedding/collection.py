"""All tables of a model: made, read and written here and nowhere else.

    rows    = collection.rows(batch.ids)           # which rows: integers only
    vectors = collection.lookup(tables, rows)      # the one read
    tables, state = collection.update(             # the one write
      tx, tables, state, rows, vector_grads)

`(rows, vector_grads)` is the sparse gradient: the gathered bags are an
argument of the loss, so row gradients come from ordinary `jax.grad` and no
array of a table's size is made in a step.

Letters: `K` gathered rows and `G` bags an example in one stack.
"""

import dataclasses
import enum
import itertools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from dlrm_jax.embedding.encoding import Encoding
from dlrm_jax.embedding.exchange import Bags, Group, pull, push
from dlrm_jax.embedding.layout import Layout, plan_layout
from dlrm_jax.embedding.table import Table
from dlrm_jax.errors import InputError
from dlrm_jax.rows import Pytree, add

Tables = dict[str, jax.Array]  # f32[R, D] for each stack
Rows = dict[str, Bags]
Vectors = dict[str, jax.Array]  # f32[B, G, D] for each stack


class Pooling(enum.Enum):
  """How the vectors of a bag become one."""

  SUM = 'sum'
  MEAN = 'mean'


@dataclasses.dataclass(frozen=True)
class Feature:
  """A sparse feature of the batch.

  Attributes:
    name: for messages.
    encoding: ids -> rows -> vector. Features whose encodings read the same
      `Table` share it.
    hotness: its columns in `Batch.ids`.
    pooling: of the vectors of its ids; the mean is weighted by `id_weights`.
  """

  name: str
  encoding: Encoding
  hotness: int = 1
  pooling: Pooling = Pooling.SUM


class _Place(NamedTuple):
  """The bag that one feature has in a stack for one of its tables."""

  feature: int
  part: int
  length: int


def _places(
  features: tuple[Feature, ...], layout: Layout
) -> dict[str, tuple[_Place, ...]]:
  """Orders the bags of every stack by length, so that equal ones meet."""
  found: dict[str, list[_Place]] = {stack: [] for stack in layout.stacks}
  for i, feature in enumerate(features):
    for part, table in enumerate(feature.encoding.tables):
      stack = layout.addresses[table.name].stack
      found[stack].append(_Place(i, part, feature.hotness))
  return {
    stack: tuple(sorted(places, key=lambda place: place.length))
    for stack, places in found.items()
  }


def _groups(places: tuple[_Place, ...]) -> tuple[Group, ...]:
  groups: list[Group] = []
  for place in places:
    if groups and groups[-1].length == place.length:
      groups[-1] = Group(groups[-1].count + 1, place.length)
    else:
      groups.append(Group(1, place.length))
  return tuple(groups)


def _distinct(features: tuple[Feature, ...]) -> tuple[Table, ...]:
  tables: dict[str, Table] = {}
  for feature in features:
    for table in feature.encoding.tables:
      if tables.setdefault(table.name, table) != table:
        raise InputError(
          f'table {table.name}: two different tables have this name '
          f'(rows {tables[table.name].rows} and {table.rows}, width '
          f'{tables[table.name].dim} and {table.dim}); features that share '
          f'a table must describe it alike'
        )
  return tuple(tables.values())


class EmbeddingCollection:
  """The tables of a tuple of features, and the two doors to them.

  >>> from dlrm_jax.embedding.encoding import Plain
  >>> color = Feature('color', Plain(Table('color', 3, 2)), hotness=2)
  >>> collection = EmbeddingCollection((color,))
  >>> tables = {'width_2': jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}
  >>> rows = collection.rows(jnp.array([[0, 2], [1, -1]]))
  >>> collection.lookup(tables, rows)['width_2'].tolist()
  [[[6.0, 8.0]], [[3.0, 4.0]]]
  """

  def __init__(self, features: tuple[Feature, ...]) -> None:
    self.features = features
    self.tables = _distinct(features)
    self.layout = plan_layout(self.tables)
    self.places = _places(features, self.layout)
    self.groups = {s: _groups(places) for s, places in self.places.items()}

  def init(self, key: jax.Array) -> Tables:
    """Makes the tables; the values of each depend on its place in the list.

    Args:
      key: one key for all.
    """
    made: dict[str, list[jax.Array]] = {s: [] for s in self.layout.stacks}
    seeds = jax.random.bits(key, (len(self.tables),), jnp.uint32)
    for table, seed in zip(self.tables, seeds, strict=True):
      rows = jnp.arange(table.rows, dtype=jnp.int32)
      values = table.init(seed, rows, (table.rows, table.dim))
      made[self.layout.addresses[table.name].stack].append(values)
    return {stack: jnp.concatenate(parts) for stack, parts in made.items()}

  def rows(self, ids: jax.Array, id_weights: jax.Array | None = None) -> Rows:
    """Which rows to gather: arithmetic on integers, no table is read.

    Args:
      ids: i32[B, H], as in `Batch`.
      id_weights: f32[B, H] or None.

    Returns:
      For each stack i32[B, K], and f32[B, K] where ids have weights or bags
      are averaged.
    """
    columns = self._columns(ids)
    weights = self._weights(columns, id_weights)
    by_part = [
      f.encoding.rows(x) for f, x in zip(self.features, columns, strict=True)
    ]
    result = {}
    for stack, places in self.places.items():
      rows = [
        self.layout.locate(
          self.features[p.feature].encoding.tables[p.part].name,
          by_part[p.feature][p.part],
        )
        for p in places
      ]
      result[stack] = Bags(
        jnp.concatenate(rows, 1), _side_by_side(places, weights, columns)
      )
    return result

  def lookup(self, tables: Tables, rows: Rows) -> Vectors:
    """The one read: f32[B, G, D] for each stack, sums of bags of rows."""
    return {
      stack: pull(tables[stack], bags, self.groups[stack])
      for stack, bags in rows.items()
    }

  def update(
    self,
    tx: optax.GradientTransformation,
    tables: Tables,
    state: Pytree,
    rows: Rows,
    grads: Vectors,
  ) -> tuple[Tables, Pytree]:
    """The one write: moves the rows that were looked up.

    Args:
      tx: a `rowwise` transform.
      tables: as read.
      state: of `tx`.
      rows: as looked up.
      grads: of the vectors, f32[B, G, D] for each stack.

    Returns:
      New tables and state; donated buffers are written in place.
    """
    row_grads = {
      stack: push(grads[stack], bags, self.groups[stack])
      for stack, bags in rows.items()
    }
    updates, state = cast(Any, tx).update(row_grads, state, tables)
    return {s: add(tables[s], updates[s]) for s in tables}, state

  def read(self, tables: Tables, name: str) -> jax.Array:
    """One logical table, f32[R, D]: for tests and export."""
    table = next(t for t in self.tables if t.name == name)
    stack, offset = self.layout.addresses[name]
    return tables[stack][offset : offset + table.rows]

  def readers(self, table: Table) -> tuple[str, ...]:
    """Names of the features that read a table."""
    return tuple(f.name for f in self.features if table in f.encoding.tables)

  def _columns(self, ids: jax.Array) -> list[jax.Array]:
    cuts = [0]
    for feature in self.features:
      cuts.append(cuts[-1] + feature.hotness)
    if ids.shape[1] != cuts[-1]:
      raise ValueError(
        f'ids have {ids.shape[1]} columns; the features need {cuts[-1]}'
      )
    return [ids[:, a:b] for a, b in itertools.pairwise(cuts)]

  def _weights(
    self, columns: list[jax.Array], id_weights: jax.Array | None
  ) -> list[jax.Array | None]:
    """Weights of each feature's ids, f32[B, hotness]; None where all are 1."""
    given: list[jax.Array | None] = [None] * len(columns)
    if id_weights is not None:
      given = list(self._columns(id_weights))
    return [
      _mean_weights(ids, w) if feature.pooling is Pooling.MEAN else w
      for feature, ids, w in zip(self.features, columns, given, strict=True)
    ]


def _mean_weights(ids: jax.Array, weights: jax.Array | None) -> jax.Array:
  """Weights that sum to 1 over the ids of a bag; 0 for an empty bag."""
  present = (ids >= 0).astype(jnp.float32)
  weights = present if weights is None else present * weights
  total = jnp.sum(weights, 1, keepdims=True)
  return weights / jnp.where(total == 0, 1.0, total)


def _side_by_side(
  places: tuple[_Place, ...],
  weights: list[jax.Array | None],
  columns: list[jax.Array],
) -> jax.Array | None:
  """Weights of a stack's rows, f32[B, K]; None when every row counts once."""
  of_places = [weights[p.feature] for p in places]
  if all(w is None for w in of_places):
    return None
  return jnp.concatenate(
    [
      jnp.ones(columns[p.feature].shape, jnp.float32) if w is None else w
      for p, w in zip(places, of_places, strict=True)
    ],
    1,
  )
