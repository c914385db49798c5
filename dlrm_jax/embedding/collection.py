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

import functools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.bags import Bags, pull, push
from dlrm_jax.embedding.capacity import Reader, capacity
from dlrm_jax.embedding.exchange import (
  Delivery,
  Route,
  fetch,
  gather_replicated,
)
from dlrm_jax.embedding.features import (
  Feature,
  Place,
  bag_lengths,
  columns_of,
  group_bags,
  place_bags,
  side_by_side,
  weights_of,
)
from dlrm_jax.embedding.initial import shard_values
from dlrm_jax.embedding.layout import (
  Address,
  Kind,
  address_columns,
  plan_layout,
)
from dlrm_jax.embedding.table import Table
from dlrm_jax.errors import InputError
from dlrm_jax.optim.rowwise import with_counters
from dlrm_jax.rows import Pytree, RowGrads, add, packed
from dlrm_jax.sharding import AXIS, COPIED, SPLIT, device_count, on_each_device

Tables = dict[str, jax.Array]  # f32[R, D], or packed, for each stack
Rows = dict[str, Bags]
Vectors = dict[str, jax.Array]  # f32[B, G, D] for each stack


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
  >>> tables = {'bags_2': jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}
  >>> rows = collection.rows(jnp.array([[0, 2], [1, -1]]))
  >>> collection.lookup(tables, rows)['bags_2'].tolist()
  [[[6.0, 8.0]], [[3.0, 4.0]]]
  """

  def __init__(self, features: tuple[Feature, ...], shards: int = 1) -> None:
    """Lays out the tables.

    Args:
      features: in the order of their columns in `Batch.ids`.
      shards: S, logical shards; a multiple of the devices.
    """
    self.features = features
    self.tables = _distinct(features)
    self.hotness = bag_lengths(features)
    self.layout = plan_layout(self.tables, shards, self.hotness)
    self.places = place_bags(features, self.layout)
    self.groups = {s: group_bags(places) for s, places in self.places.items()}
    self._columns = {
      s: address_columns([(self._block(p), math.prod(p.bags)) for p in places])
      for s, places in self.places.items()
    }

  @property
  def specs(self) -> dict[str, PartitionSpec]:
    """How every stack is cut over the devices."""
    return {
      name: COPIED if stack.kind is Kind.REPLICATED else SPLIT
      for name, stack in self.layout.stacks.items()
    }

  def state_specs(
    self, tx: optax.GradientTransformation, state: Pytree
  ) -> Pytree:
    """How the state of a `rowwise` transform is cut: as its stacks are."""
    return optax.tree.map_params(
      tx.init,
      lambda _, spec: spec,
      state,
      self.specs,
      transform_non_params=lambda _: COPIED,
    )

  def empty_vectors(self) -> Vectors:
    """Zeros in the shapes of a batch of one example."""
    return {
      name: jnp.zeros(
        (1, sum(group.count for group in groups), self._dim(name))
      )
      for name, groups in self.groups.items()
    }

  def init(self, key: jax.Array) -> Tables:
    """Makes the tables, every device its own part.

    The values of a table depend on the key and its place in the list, not on
    where it lives; copies of an independent table start equal.
    """
    seeds = jax.random.bits(key, (len(self.tables),), jnp.uint32)

    def made(shards: jax.Array, seeds: jax.Array) -> Tables:
      parts = {}
      for name, stack in self.layout.stacks.items():
        mine = shards[:1] * 0 if stack.kind is Kind.REPLICATED else shards
        part = functools.partial(
          shard_values, self.layout, self.tables, name, seeds
        )
        parts[name] = jax.lax.map(part, mine).reshape(
          -1, stack.dim * packed(stack.dim)
        )
      return parts

    shards = jnp.arange(self.layout.shards, dtype=jnp.int32)
    return on_each_device(made, (SPLIT, COPIED), self.specs)(shards, seeds)

  def init_state(
    self, tx: optax.GradientTransformation, tables: Tables
  ) -> Pytree:
    """The first state of a `rowwise` transform, as packed as the tables."""
    state = tx.init({s: x.reshape(-1, self._dim(s)) for s, x in tables.items()})
    return optax.tree.map_params(
      tx.init,
      lambda x, table: x.reshape(table.shape) if x.ndim == 2 else x,
      state,
      tables,
    )

  def rows(
    self,
    ids: jax.Array,
    id_weights: jax.Array | None = None,
    node: jax.Array | None = None,
  ) -> Rows:
    """Which rows to gather: arithmetic on integers, no table is read.

    Args:
      ids: i32[B, H], as in `Batch`.
      id_weights: f32[B, H] or None.
      node: i32[], whose copies of independent tables; None: each of the S equal
        parts of the batch has its own.

    Returns:
      For each stack i32[B, K], and f32[B, K] where ids have weights or bags
      are averaged while they are gathered.
    """
    columns = columns_of(self.features, ids)
    weights = [
      w if f.encoding.pools_first else None
      for f, w in zip(
        self.features,
        weights_of(self.features, columns, id_weights),
        strict=True,
      )
    ]
    nodes = self._nodes(len(ids), node)
    by_part = [
      f.encoding.rows(x) for f, x in zip(self.features, columns, strict=True)
    ]
    return {
      stack: Bags(
        self.layout.locate(
          self._columns[stack],
          jnp.concatenate([by_part[p.feature][p.part] for p in places], 1),
          nodes,
        ),
        side_by_side(places, weights, columns),
      )
      for stack, places in self.places.items()
    }

  def lookup(
    self, tables: Tables, rows: Rows, anywhere: bool = False
  ) -> Vectors:
    """The one read: f32[B, G, D] for each stack, sums of bags of rows.

    Args:
      tables: all of them.
      rows: which.
      anywhere: whether rows of independent tables can be those of another
        device's node; otherwise they are read where they are.
    """

    def local(tables: Tables, rows: Rows) -> Vectors:
      return {
        stack: self._read(stack, tables[stack], bags, anywhere)
        for stack, bags in rows.items()
      }

    return on_each_device(local, (self.specs, SPLIT), SPLIT)(tables, rows)

  def _read(
    self, stack: str, table: jax.Array, bags: Bags, anywhere: bool
  ) -> jax.Array:
    kind, dim = self.layout.stacks[stack].kind, self._dim(stack)
    if device_count() == 1 or kind is Kind.REPLICATED:
      return pull(table, bags, self.groups[stack], dim)
    if kind is Kind.INDEPENDENT and not anywhere:
      local = _as_local(bags, table.size // dim)
      return pull(table, local, self.groups[stack], dim)
    with jax.named_scope('exchange'):
      return fetch(table, bags, self._route(stack, len(bags.rows)))

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
    specs = self.specs, self.state_specs(tx, state)
    write = functools.partial(self._write, tx)
    return on_each_device(write, (*specs, SPLIT, SPLIT), specs)(
      tables, state, rows, grads
    )

  def _write(
    self,
    tx: optax.GradientTransformation,
    tables: Tables,
    state: Pytree,
    rows: Rows,
    grads: Vectors,
  ) -> tuple[Tables, Pytree]:
    """On one device: what arrives in the first round, then in others."""
    arrived: dict[str, RowGrads] = {}
    on_way: dict[str, Delivery] = {}
    done: dict[str, jax.Array] = {}
    for stack, bags in rows.items():
      if self._travels(stack):
        route = self._route(stack, len(bags.rows))
        local_rows = tables[stack].size // route.dim
        on_way[stack] = Delivery(grads[stack], bags, route, local_rows)
        with jax.named_scope('exchange'):
          arrived[stack], done[stack] = on_way[stack].first()
      else:
        arrived[stack] = self._stays(stack, tables[stack], bags, grads[stack])
    before = state
    dims = {stack: self._dim(stack) for stack in tables}
    tables, state = _applied(tx, tables, state, arrived, dims)
    if not on_way:
      return tables, state

    def left(carry: tuple[dict[str, jax.Array], Tables, Pytree]) -> jax.Array:
      return functools.reduce(
        jnp.logical_or, [on_way[s].left(carry[0][s]) for s in on_way]
      )

    def another(
      carry: tuple[dict[str, jax.Array], Tables, Pytree],
    ) -> tuple[dict[str, jax.Array], Tables, Pytree]:
      done, tables, state = carry
      with jax.named_scope('exchange'):
        now = {s: on_way[s].another(done[s]) for s in on_way}
      # One step has one count, however many rounds it takes.
      state = with_counters(tx, state, before)
      arrived = {s: grads for s, (grads, _) in now.items()}
      tables, state = _applied(tx, tables, state, arrived, dims)
      return {s: reach for s, (_, reach) in now.items()}, tables, state

    with jax.named_scope('overflow'):
      _, tables, state = jax.lax.while_loop(
        left, another, (done, tables, state)
      )
    return tables, state

  def _travels(self, stack: str) -> bool:
    kind = self.layout.stacks[stack].kind
    return device_count() > 1 and kind in (Kind.ROWS, Kind.BAGS)

  def _stays(
    self, stack: str, table: jax.Array, bags: Bags, grads: jax.Array
  ) -> RowGrads:
    """Gradients of a stack whose rows are all on this device."""
    kind, shards, _, dim = self.layout.stacks[stack]
    if kind is Kind.INDEPENDENT:
      # The loss is a mean over the batch; a node learns from its own part.
      if device_count() > 1:
        bags = _as_local(bags, table.size // dim)
      return push(grads * float(shards), bags, self.groups[stack])
    mine = push(grads, bags, self.groups[stack])
    if device_count() == 1:
      return mine
    return gather_replicated(mine.flat(), table.size // dim)

  def read(self, tables: Tables, name: str, node: int = 0) -> jax.Array:
    """One logical table, f32[R, D]: for tests and export.

    Args:
      tables: all of them.
      name: of the table.
      node: whose copy, of an independent table.
    """
    rows = np.arange(self.layout.rows[name], dtype=np.int32)
    return jnp.concatenate(
      [
        jnp.take(
          tables[b.stack].reshape(-1, b.dim),
          self.layout.locate(b, rows, node),
          axis=0,
        )
        for b in self.layout.blocks[name]
      ],
      1,
    )

  def readers(self, table: Table) -> tuple[str, ...]:
    """Names of the features that read a table."""
    return tuple(f.name for f in self.features if table in f.encoding.tables)

  def _dim(self, stack: str) -> int:
    return self.layout.stacks[stack].dim

  def _block(self, place: Place) -> Address:
    table = self.features[place.feature].encoding.tables[place.part]
    return self.layout.blocks[table.name][place.block]

  def _route(self, stack: str, batch: int) -> Route:
    """How a stack's bags travel when a device has `batch` examples."""
    readers = [
      Reader(
        self.features[p.feature].encoding.tables[p.part].name,
        self._block(p),
        p.bags.length,
      )
      for p in self.places[stack]
      for _ in range(p.bags.count)
    ]
    devices = device_count()
    return Route(
      self._dim(stack),
      self.groups[stack],
      capacity(self.layout, readers, batch, devices),
      devices,
      pooled=self.layout.stacks[stack].kind is Kind.BAGS,
    )

  def _nodes(self, batch: int, node: jax.Array | None) -> Any:
    """The node of each example, i32[B, 1], where there are any."""
    kinds = {stack.kind for stack in self.layout.stacks.values()}
    if node is not None or Kind.INDEPENDENT not in kinds:
      return node
    if batch % self.layout.shards:
      raise InputError(
        f'batch size {batch}: must be a multiple of the {self.layout.shards} '
        f'nodes that learn independent tables (config.tables.shards)'
      )
    each = batch // self.layout.shards
    return jnp.arange(batch, dtype=jnp.int32)[:, None] // each


def _as_local(bags: Bags, local_rows: int) -> Bags:
  """Bags of rows of this device's part, numbered from its first row."""
  first = jax.lax.axis_index(AXIS) * local_rows
  return bags._replace(rows=jnp.where(bags.rows < 0, PAD, bags.rows - first))


def _nothing(dim: int) -> RowGrads:
  return RowGrads(jnp.zeros(0, jnp.int32), jnp.zeros((0, dim)))


def _applied(
  tx: optax.GradientTransformation,
  tables: Tables,
  state: Pytree,
  arrived: dict[str, RowGrads],
  dims: dict[str, int],
) -> tuple[Tables, Pytree]:
  """Tables and state after an update by the gradients that are here."""
  arrived = {s: arrived.get(s, _nothing(dims[s])) for s in tables}
  updates, state = cast(Any, tx).update(arrived, state, tables)
  return {s: add(tables[s], updates[s]) for s in tables}, state
