"""All tables of a model: the only module that makes, reads and writes them.

    rows    = collection.rows(batch.ids)           # row numbers: integers only
    vectors = collection.lookup(tables, rows)      # the one read
    tables, state = collection.update(             # the one write
      tx, tables, state, rows, vector_grads)

`(rows, vector_grads)` is the sparse gradient: the gathered bags are an
argument of the loss, so row gradients come from ordinary `jax.grad` and a
step makes no array of a table's size.

Letters: `K` gathered rows and `G` bags an example in one stack.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.bags import Bags, pull
from dlrm_jax.embedding.capacity import BagSpec, capacity
from dlrm_jax.embedding.exchange import fetch
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
from dlrm_jax.embedding.initial import first_rows
from dlrm_jax.embedding.layout import (
  Address,
  Stack,
  StackKind,
  address_columns,
)
from dlrm_jax.embedding.layout_plan import plan_layout
from dlrm_jax.embedding.parcels import Route
from dlrm_jax.embedding.table import Table
from dlrm_jax.embedding.update import (
  Rows,
  Tables,
  TableUpdate,
  Vectors,
  as_local,
)
from dlrm_jax.errors import InputError
from dlrm_jax.optim.clipping import Clip
from dlrm_jax.optim.rowwise import RowTransform
from dlrm_jax.rows import Pytree
from dlrm_jax.sharding import COPIED, SPLIT, device_count, on_each_device

__all__ = ['EmbeddingCollection', 'Rows', 'Tables', 'Vectors']


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
  """The tables of a tuple of features, with one read and one write.

  >>> from dlrm_jax.embedding.encoding import Plain
  >>> color = Feature('color', Plain(Table('color', 3, 2)), hotness=2)
  >>> collection = EmbeddingCollection((color,))
  >>> tables = {'bags_2': jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}
  >>> rows = collection.rows(jnp.array([[0, 2], [1, -1]]))
  >>> collection.lookup(tables, rows)['bags_2'].tolist()
  [[[6.0, 8.0]], [[3.0, 4.0]]]
  """

  def __init__(self, features: tuple[Feature, ...], shards: int = 1) -> None:
    """Plans the layout of the tables.

    Args:
      features: features in the order of their columns in `Batch.ids`.
      shards: number of logical shards, S; a multiple of the devices.
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
    self._row_counts = {
      s: np.repeat(
        np.array([self._table(p).rows for p in places], np.int32),
        [math.prod(p.bags) for p in places],
      )[None]
      for s, places in self.places.items()
    }

  @property
  def specs(self) -> dict[str, Pytree]:
    """How each array of every stack is cut over the devices."""
    return {
      name: _for_each_array(stack, _spec(stack))
      for name, stack in self.layout.stacks.items()
    }

  def state_specs(self, tx: RowTransform, state: Pytree) -> Pytree:
    """How the state of a `rowwise` transform is cut: as its stacks are."""
    return optax.tree.map_params(
      tx.init,
      lambda _, spec: spec,
      state,
      {name: _spec(stack) for name, stack in self.layout.stacks.items()},
      transform_non_params=lambda _: COPIED,
    )

  def empty_vectors(self) -> Vectors:
    """Zeros in the shapes of the vectors of one example."""
    return {
      name: jnp.zeros(
        (1, sum(group.count for group in groups), self._dim(name))
      )
      for name, groups in self.groups.items()
    }

  def init(self, key: jax.Array) -> Tables:
    """Makes the tables, each device its own part.

    The values of a table depend on the key and on its place in the list of
    tables, not on where it lives; copies of an independent table start equal.
    """
    seeds = jax.random.bits(key, (len(self.tables),), jnp.uint32)

    def make_local(shards: jax.Array, seeds: jax.Array) -> Tables:
      return {
        name: first_rows(self.layout, self.tables, name, seeds, shards)
        for name in self.layout.stacks
      }

    shards = jnp.arange(self.layout.shards, dtype=jnp.int32)
    return on_each_device(make_local, (SPLIT, COPIED), self.specs)(
      shards, seeds
    )

  def init_state(self, tx: RowTransform, tables: Tables) -> Pytree:
    """The first state of a `rowwise` transform, kept and packed."""
    stacks = self.layout.stacks
    state = tx.init(
      {s: stacks[s].storage.values(x, self._dim(s)) for s, x in tables.items()}
    )
    return optax.tree.map_params(
      tx.init,
      lambda x, kept: kept.pack(kept.encode(x, None)),
      state,
      {s: stacks[s].state for s in tables},
    )

  def rows(
    self,
    ids: jax.Array,
    id_weights: jax.Array | None = None,
    node: jax.Array | None = None,
  ) -> Rows:
    """The rows to gather: arithmetic on integers, no table is read.

    Args:
      ids: i32[B, H], as in `Batch`.
      id_weights: f32[B, H] or None.
      node: i32[], the node whose copies of independent tables are read; None:
        each of the S equal parts of the batch reads those of its own node.

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
    nodes = self._nodes(ids.shape[0], node)
    by_part = [
      f.encoding.rows(x) for f, x in zip(self.features, columns, strict=True)
    ]
    found = {}
    for stack, places in self.places.items():
      rows = jnp.concatenate([by_part[p.feature][p.part] for p in places], 1)
      # All at once: XLA makes a loop of its own for each smaller operation.
      rows = jnp.where(rows < self._row_counts[stack], rows, PAD)
      found[stack] = Bags(
        self.layout.locate(self._columns[stack], rows, nodes),
        side_by_side(places, weights, columns),
      )
    return found

  def lookup(
    self, tables: Tables, rows: Rows, anywhere: bool = False
  ) -> Vectors:
    """The one read: sums of bags of rows, f32[B, G, D] for each stack.

    Args:
      tables: all tables.
      rows: the rows to gather.
      anywhere: whether rows of independent tables can be those of another
        device's node; otherwise each device reads only its own rows.
    """

    def local(tables: Tables, rows: Rows) -> Vectors:
      return {
        stack: self._read(stack, tables[stack], bags, anywhere)
        for stack, bags in rows.items()
      }

    return on_each_device(local, (self.specs, SPLIT), SPLIT)(tables, rows)

  def _read(
    self, stack: str, tree: Pytree, bags: Bags, anywhere: bool
  ) -> jax.Array:
    about, groups = self.layout.stacks[stack], self.groups[stack]
    if device_count() == 1 or about.kind is StackKind.REPLICATED:
      return pull(tree, bags, groups, about.dim, about.storage)
    if about.kind is StackKind.INDEPENDENT and not anywhere:
      local = as_local(bags, about.local_rows(tree))
      return pull(tree, local, groups, about.dim, about.storage)
    with jax.named_scope('exchange'):
      return fetch(tree, bags, self._route(stack, len(bags.rows)))

  def update(
    self,
    tx: RowTransform,
    tables: Tables,
    state: Pytree,
    rows: Rows,
    grads: Vectors,
    key: jax.Array | None = None,
    clip: Clip | None = None,
    factor: jax.Array | None = None,
  ) -> tuple[Tables, Pytree, jax.Array]:
    """The one write: moves the rows that were looked up.

    Of tables with a dense update all rows move.

    Args:
      tx: a `rowwise` transform.
      tables: the tables that were read.
      state: the state of `tx`.
      rows: the rows that were looked up.
      grads: gradients of the vectors, f32[B, G, D] for each stack.
      key: i32[] or u32[], another number in each step, from which storages
        that round at random hash their noise; None: they round to nearest.
      clip: the norm of all gradients to clip by; None: they are not clipped.
      factor: f32[], what updates are multiplied by; None: 1.

    Returns:
      New tables and state, whose donated buffers are written in place; and
      f32[], what gradients were multiplied by to clip them.
    """
    stacks = self.layout.stacks
    if not any(s.storage.random or s.state.random for s in stacks.values()):
      key = None
    specs = self.specs, self.state_specs(tx, state)
    write = TableUpdate(self.layout, self.groups, self._route, tx)
    copied = COPIED, COPIED, COPIED
    return on_each_device(
      write, (*specs, SPLIT, SPLIT, *copied), (*specs, COPIED)
    )(tables, state, rows, grads, key, clip, factor)

  def read(self, tables: Tables, name: str, node: int = 0) -> jax.Array:
    """One logical table, f32[R, D]: for tests and export.

    Args:
      tables: all tables.
      name: name of the table.
      node: number of the copy, of an independent table.
    """
    rows = np.arange(self.layout.rows[name], dtype=np.int32)

    def block(address: Address) -> jax.Array:
      storage = self.layout.stacks[address.stack].storage
      places = self.layout.locate(address, rows, node)
      kept = jax.tree.map(
        lambda x: jnp.take(x, places, axis=0),
        storage.unpack(tables[address.stack], address.dim),
      )
      return storage.decode(kept, address.dim)

    return jnp.concatenate([block(b) for b in self.layout.blocks[name]], 1)

  def readers(self, table: Table) -> tuple[str, ...]:
    """Names of the features that read a table."""
    return tuple(f.name for f in self.features if table in f.encoding.tables)

  def _dim(self, stack: str) -> int:
    return self.layout.stacks[stack].dim

  def _table(self, place: Place) -> Table:
    return self.features[place.feature].encoding.tables[place.part]

  def _block(self, place: Place) -> Address:
    return self.layout.blocks[self._table(place).name][place.block]

  def _route(self, stack: str, batch: int) -> Route:
    """How a stack's bags travel when a device has `batch` examples."""
    bags = [
      BagSpec(
        self.features[p.feature].encoding.tables[p.part].name,
        self._block(p),
        p.bags.length,
      )
      for p in self.places[stack]
      for _ in range(p.bags.count)
    ]
    devices = device_count()
    room = capacity(self.layout, bags, batch, devices)
    return Route(self.layout.stacks[stack], self.groups[stack], room, devices)

  def _nodes(self, batch: int, node: jax.Array | None) -> Any:
    """The node of each example, i32[B, 1]; None without independent tables."""
    kinds = {stack.kind for stack in self.layout.stacks.values()}
    if node is not None or StackKind.INDEPENDENT not in kinds:
      return node
    if batch % self.layout.shards:
      raise InputError(
        f'batch size {batch}: must be a multiple of the {self.layout.shards} '
        f'nodes that learn independent tables (config.tables.shards)'
      )
    examples = batch // self.layout.shards
    return jnp.arange(batch, dtype=jnp.int32)[:, None] // examples


def _spec(stack: Stack) -> PartitionSpec:
  return COPIED if stack.kind is StackKind.REPLICATED else SPLIT


def _for_each_array(stack: Stack, spec: PartitionSpec) -> Pytree:
  return jax.tree.map(lambda _: spec, stack.storage.leaves(stack.dim))
