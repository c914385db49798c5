"""Storages: how a table keeps its rows, as a codec of f32[..., D].

A stack of tables is a pytree of arrays with rows on axis 0, each of them
packed as `rows.packed` says of its width. `Float32` keeps one array, the
values. Another storage keeps a dict of arrays: for example codes u8[R, D]
beside a scale and an offset of each row, f32[R, 2].

Rows are decoded after they are gathered and before bags are summed. An update
reads the rows that it touches, adds to them in float32 and encodes them again;
with `Float32` it is a plain addition.

The states of optimizers are kept by storages, too: arrays f32[R, D] as a table
is, and one number a row, f32[R], by those that encode number by number.
"""

import abc
import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.rows import Pytree, RowGrads, add, packed, put, take

_TILE = 32  # bytes of a column of a TPU's tile: 8 rows of float32


class Storage(abc.ABC):
  """Abstract; concrete storages are frozen, comparable and hashable."""

  random = False
  """Whether `encode` rounds at random: an update then needs noise."""

  most = float(np.finfo(np.float32).max)
  """The greatest magnitude that is kept; larger ones become that, or worse."""

  @property
  @abc.abstractmethod
  def name(self) -> str:
    """Name in a checkpoint and in names of stacks, such as 'float32'."""

  @abc.abstractmethod
  def leaves(self, dim: int) -> Pytree:
    """Widths and dtypes of the arrays that keep rows f32[dim].

    Returns:
      A `jax.ShapeDtypeStruct` of shape [width], or a dict of them by name.
    """

  @abc.abstractmethod
  def decode(self, rows: Pytree, dim: int) -> jax.Array:
    """Kept rows, arrays [..., width], to their values f32[..., dim].

    Kept rows of zeros must decode to zeros, as rows that do not exist read.
    Arrays are JAX's, or NumPy's where a checkpoint moves to another layout.
    """

  @abc.abstractmethod
  def encode(self, values: jax.Array, noise: jax.Array | None) -> Pytree:
    """Values f32[..., D] to kept rows, arrays [..., width].

    Args:
      values: rows; each is encoded by itself.
      noise: u32[..., D], random bits for each value; None: round to nearest.
    """

  def arrays(self, dim: int) -> list[jax.ShapeDtypeStruct]:
    """The `leaves` as a list."""
    return jax.tree.leaves(self.leaves(dim))

  def row_bytes(self, dim: int) -> int:
    """Bytes of a row, without padding."""
    return sum(x.size * x.dtype.itemsize for x in self.arrays(dim))

  def row_unit(self, dim: int) -> int:
    """A shard's rows must be a multiple of this: whole tiles of a TPU."""
    return max(
      packed(x.size) * _TILE // x.dtype.itemsize for x in self.arrays(dim)
    )

  def count_rows(self, tree: Pytree, dim: int) -> int:
    """Number of rows that the arrays of a stack, or of a part of it, keep."""
    leaf, x = (jax.tree.leaves(t)[0] for t in (self.leaves(dim), tree))
    return x.size // leaf.size

  def pack(self, rows: Pytree) -> Pytree:
    """Kept rows, arrays [R, width], in the packed form of a stack."""

    def pack(x: jax.Array) -> jax.Array:
      if x.ndim == 1:
        return x
      return x.reshape(-1, x.shape[-1] * packed(x.shape[-1]))

    return jax.tree.map(pack, rows)

  def unpack(self, tree: Pytree, dim: int) -> Pytree:
    """The arrays of a stack as kept rows, arrays [R, width]."""
    return jax.tree.map(
      lambda leaf, x: x if x.ndim == 1 else x.reshape(-1, leaf.size),
      self.leaves(dim),
      tree,
    )

  def values(self, tree: Pytree, dim: int) -> jax.Array:
    """Values of all rows of a stack, f32[R, dim] or f32[R]."""
    return self.decode(self.unpack(tree, dim), dim)

  def take(
    self, tree: Pytree, rows: jax.Array, dim: int, exist: bool = False
  ) -> Pytree:
    """Kept rows of a stack: arrays [*rows.shape, width].

    Args:
      tree: the arrays of the stack.
      rows: i32[...].
      dim: D.
      exist: whether all rows are known to exist, as `rows.take` has it.
    """
    return jax.tree.map(
      lambda leaf, x: take(x, rows, leaf.size, exist), self.leaves(dim), tree
    )

  def read(
    self, tree: Pytree, rows: jax.Array, dim: int, exist: bool = False
  ) -> jax.Array:
    """Values of rows of a stack, f32[*rows.shape, dim]; as `take`."""
    return self.decode(self.take(tree, rows, dim, exist), dim)

  def write(
    self,
    tree: Pytree,
    rows: jax.Array | None,
    values: jax.Array,
    noise: jax.Array | None,
  ) -> Pytree:
    """The arrays of a stack with other values of distinct rows.

    Args:
      tree: the arrays of the stack.
      rows: i32[M]; None: all rows.
      values: f32[M, D] or f32[M].
      noise: as `encode` takes it.
    """
    kept = self.encode(values, noise)
    return self.pack(kept) if rows is None else put(tree, rows, kept)

  def add(
    self, tree: Pytree, update: RowGrads, noise: jax.Array | None
  ) -> Pytree:
    """Adds to distinct rows of a stack.

    Args:
      tree: the arrays of the stack.
      update: rows i32[M] and values f32[M, D].
      noise: as `encode` takes it.
    """
    rows, values = update
    sums = self.read(tree, rows, values.shape[-1]) + values
    return self.write(tree, rows, sums, noise)

  def add_to_all(
    self, tree: Pytree, update: jax.Array, noise: jax.Array | None
  ) -> Pytree:
    """Adds f32[R, D] to all rows of a stack; `noise` as in `add`."""
    sums = self.values(tree, update.shape[-1]) + update
    return self.write(tree, None, sums, noise)


@dataclasses.dataclass(frozen=True)
class Float32(Storage):
  """Values as they are, one array f32[R, D]."""

  @property
  def name(self) -> str:
    """The name."""
    return 'float32'

  def leaves(self, dim: int) -> Pytree:
    """The one array."""
    return jax.ShapeDtypeStruct((dim,), jnp.float32)

  def decode(self, rows: Pytree, dim: int) -> jax.Array:
    """The values themselves."""
    del dim
    return cast(jax.Array, rows)

  def encode(self, values: jax.Array, noise: jax.Array | None) -> Pytree:
    """The values themselves."""
    del noise
    return values

  def add(
    self, tree: Pytree, update: RowGrads, noise: jax.Array | None
  ) -> Pytree:
    """One scatter; the rows are not read."""
    del noise
    return add(cast(jax.Array, tree), update)


FLOAT32 = Float32()
