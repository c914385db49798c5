"""Rows of tables and of their optimizer's state, read and written by storages.

`rowwise` takes them in the place of arrays. Where a storage rounds at random,
the noise of a row's values and of each array of its state have a use of their
own, so that they share no bits.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from dlrm_jax.embedding.initial import noise
from dlrm_jax.embedding.layout import Layout, StackKind
from dlrm_jax.embedding.storage import Storage
from dlrm_jax.optim.rowwise import Grads, Kept, RowTransform
from dlrm_jax.rows import Pytree, RowGrads
from dlrm_jax.sharding import AXIS, device_count


@dataclasses.dataclass(frozen=True, eq=False)
class StoredRows(Kept):
  """The values of a stack, or an array of their state, as a storage keeps them.

  Attributes:
    storage: the storage.
    tree: what it keeps of this device's part.
    dim: width of the rows' values, D.
    noise: rows i32[M], or None for all -> random bits u32[M, D]; or None, to
      round to nearest.
  """

  storage: Storage
  tree: Pytree
  dim: int
  noise: Callable[[jax.Array | None], jax.Array | None]

  def read(self, rows: jax.Array | None) -> jax.Array:
    """Decodes rows, or all."""
    if rows is None:
      return self.storage.values(self.tree, self.dim)
    return self.storage.read(self.tree, rows, self.dim)

  def write(self, rows: jax.Array | None, values: jax.Array) -> Pytree:
    """Encodes rows, or all; one number a row has the noise of column 0."""
    noise = self.noise(rows)
    if noise is not None and values.ndim == 1:
      noise = noise[:, 0]
    return self.storage.write(self.tree, rows, values, noise)

  def add(self, update: Grads) -> Pytree:
    """Adds to some rows, or to all."""
    if isinstance(update, RowGrads):
      return self.storage.add(self.tree, update, self.noise(update.rows))
    return self.storage.add_to_all(self.tree, update, self.noise(None))


def _drawing(
  layout: Layout, stack: str, count: int, key: jax.Array | None, use: int
) -> Callable[[jax.Array | None], jax.Array | None]:
  """The `noise` of `StoredRows`, of which a device has `count` rows."""

  def draw(rows: jax.Array | None) -> jax.Array | None:
    about = layout.stacks[stack]
    storage = about.state if use else about.storage
    if key is None or not storage.random:
      return None
    if rows is None:
      rows = jnp.arange(count, dtype=jnp.int32)
    if device_count() > 1 and about.kind is not StackKind.REPLICATED:
      rows = rows + jax.lax.axis_index(AXIS) * count
    return noise(layout, stack, rows, key, use)

  return draw


def stored_tables(
  layout: Layout, tables: Mapping[str, Pytree], key: jax.Array | None
) -> dict[str, StoredRows]:
  """The stacks of this device's part.

  Args:
    layout: the layout of all tables.
    tables: by stack what its storage keeps.
    key: what noise is hashed from; None: storages round to nearest.
  """
  found = {}
  for name, tree in tables.items():
    about = layout.stacks[name]
    draw = _drawing(layout, name, about.local_rows(tree), key, 0)
    found[name] = StoredRows(about.storage, tree, about.dim, draw)
  return found


def stored_state(
  layout: Layout,
  tables: Mapping[str, Pytree],
  tx: RowTransform,
  state: Pytree,
  key: jax.Array | None,
) -> Pytree:
  """The state of a `rowwise` transform, with `StoredRows` for its arrays.

  Args:
    layout: as in `stored_tables`.
    tables: as in `stored_tables`.
    tx: the transform.
    state: this device's part of its state.
    key: as in `stored_tables`.
  """
  uses = collections.Counter()

  def stored(x: jax.Array, name: str) -> StoredRows:
    about = layout.stacks[name]
    uses[name] += 1
    count = about.local_rows(tables[name])
    draw = _drawing(layout, name, count, key, uses[name])
    return StoredRows(about.state, x, about.dim, draw)

  names = {name: name for name in tables}
  return optax.tree.map_params(tx.init, stored, state, names)
