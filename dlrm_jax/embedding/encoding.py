"""Encodings: how an id becomes rows of tables, and their vectors a vector.

An encoding says *what* is looked up. Where the rows live (layout), how they
move (optimizer) and how many ids an example has (feature) are not its
business. `docs/encodings.md` has the whole family, with pictures.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Hashable

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.operations import Operation
from dlrm_jax.embedding.partitions import Partition
from dlrm_jax.embedding.table import Table


class Encoding(abc.ABC):
  """Abstract; every concrete encoding is final."""

  @property
  @abc.abstractmethod
  def tables(self) -> tuple[Table, ...]:
    """The tables that it reads, one a part; a table may stand repeatedly."""

  @property
  @abc.abstractmethod
  def ids(self) -> int:
    """How many ids it takes: 0, 1, ...; others are not there."""

  @property
  @abc.abstractmethod
  def dim(self) -> int:
    """D, the width of its vectors."""

  @property
  @abc.abstractmethod
  def pools_first(self) -> bool:
    """Whether it combines sums of rows, one a bag, or the rows of each id."""

  @abc.abstractmethod
  def rows(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Ids i32[B, L] -> rows i32[B, L] for each part; PAD stays PAD."""

  @abc.abstractmethod
  def combine(self, parts: tuple[jax.Array, ...], ids: jax.Array) -> jax.Array:
    """Vectors of the parts -> f32[B, L, D]; it may make linen layers.

    Ids that are not there, whose parts are zeros, give zeros.

    Args:
      parts: f32[B, L, d], one for each table; where it pools first, of bags:
        f32[B, 1, d].
      ids: i32[B, L].
    """

  @abc.abstractmethod
  def placed(self, place: Callable[[Table], Table]) -> 'Encoding':
    """The same with its tables elsewhere."""

  def layers(self) -> int:
    """How many parameters its linen layers have."""
    return 0

  def activations(self) -> int:
    """How many numbers these layers make for an id, or a sum of ids."""
    return 0

  @property
  def alike(self) -> Hashable:
    """Equal for encodings that combine alike: they are combined together."""
    return self


@dataclasses.dataclass(frozen=True)
class Plain(Encoding):
  """Id i is row i: the table has a row for every id.

  The naive complementary partition of arXiv 1909.02107: a bucket for each.
  """

  table: Table

  @property
  def tables(self) -> tuple[Table, ...]:
    """The one table."""
    return (self.table,)

  @property
  def ids(self) -> int:
    """A row each."""
    return self.table.rows

  @property
  def dim(self) -> int:
    """Of the table."""
    return self.table.dim

  @property
  def pools_first(self) -> bool:
    """A bag is a sum of rows."""
    return True

  def rows(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Ids are rows; those that the table has not are PAD."""
    return (jnp.where(ids < self.table.rows, ids, PAD),)

  def combine(self, parts: tuple[jax.Array, ...], ids: jax.Array) -> jax.Array:
    """The vector itself."""
    del ids
    return parts[0]

  def placed(self, place: Callable[[Table], Table]) -> 'Encoding':
    """The same with its table elsewhere."""
    return dataclasses.replace(self, table=place(self.table))

  @property
  def alike(self) -> Hashable:
    """All of equal width are."""
    return Plain, self.table.dim


@dataclasses.dataclass(frozen=True)
class Composed(Encoding):
  """A bucket in each of k partitions, and an operation on their vectors.

  z = omega(W_1[p_1(x)], ..., W_k[p_k(x)]). Source: arXiv 1909.02107, section
  4. Hashing is one partition; ROBE several hashes into one table.

  Attributes:
    of: tables of the first partitions; a path has one only.
    partition: ids to buckets.
    operation: vectors to one.
    width: D.
    sums_first: for operations that are not linear: whether the vectors of a
      bag are summed before they are combined, as facebookresearch/dlrm does,
      and not after, as the paper does. The same where bags have one id.
  """

  of: tuple[Table, ...]
  partition: Partition
  operation: Operation
  width: int
  sums_first: bool = False

  @property
  def tables(self) -> tuple[Table, ...]:
    """One a partition, but of a path."""
    return self.of

  @property
  def ids(self) -> int:
    """Of the partition."""
    return self.partition.ids

  @property
  def dim(self) -> int:
    """D."""
    return self.width

  @property
  def pools_first(self) -> bool:
    """Where that is the same, or asked for."""
    alone = len(self.partition.buckets) == 1
    return alone or self.operation.linear or self.sums_first

  def rows(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Buckets are rows."""
    there = self._there(ids)
    buckets = self.partition.split(jnp.where(there, ids, 0))
    return tuple(jnp.where(there, b, PAD) for b in buckets[: len(self.of)])

  def combine(self, parts: tuple[jax.Array, ...], ids: jax.Array) -> jax.Array:
    """The operation's result; zeros for PAD."""
    sizes, name = self._choices, self.of[0].name
    if not sizes:
      return self.operation.combine(parts, (), (), name)
    there = self._there(ids)
    choices = self.partition.split(jnp.where(there, ids, 0))[len(self.of) :]
    made = self.operation.combine(parts, choices, sizes, name)
    return jnp.where(there[..., None], made, 0.0)

  def _there(self, ids: jax.Array) -> jax.Array:
    return (ids >= 0) & (ids < self.partition.ids)

  def placed(self, place: Callable[[Table], Table]) -> 'Encoding':
    """The same with its tables elsewhere."""
    return dataclasses.replace(self, of=tuple(map(place, self.of)))

  @property
  def alike(self) -> Hashable:
    """Operations without layers depend on the widths only."""
    if self.layers():
      return self
    return self.operation, tuple(t.dim for t in self.of), self.pools_first

  def layers(self) -> int:
    """Those of the operation."""
    return self.operation.layers(self.width, self._choices)

  def activations(self) -> int:
    """Those of the operation."""
    return self.operation.activations(self.width, self._choices)

  @property
  def _choices(self) -> tuple[int, ...]:
    """Buckets of the partitions without a table."""
    return self.partition.buckets[len(self.of) :]


@dataclasses.dataclass(frozen=True)
class Projected(Encoding):
  """A row of width d, and a matrix that takes it to width D: z = W[x] P.

  Mixed dimensions: rare features get narrow rows. Source: A. Ginart et al.,
  arXiv 1909.11810.

  Attributes:
    table: of width d.
    width: D.
  """

  table: Table
  width: int

  @property
  def tables(self) -> tuple[Table, ...]:
    """The one table."""
    return (self.table,)

  @property
  def ids(self) -> int:
    """A row each."""
    return self.table.rows

  @property
  def dim(self) -> int:
    """D."""
    return self.width

  @property
  def pools_first(self) -> bool:
    """The projection of a sum is the sum of projections."""
    return True

  def rows(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Ids are rows; those that the table has not are PAD."""
    return Plain(self.table).rows(ids)

  def combine(self, parts: tuple[jax.Array, ...], ids: jax.Array) -> jax.Array:
    """f32[B, 1, d] P, with P f32[d, D] of variance 1 / d at first."""
    del ids
    return nn.Dense(
      self.width,
      use_bias=False,
      kernel_init=nn.initializers.normal(1 / math.sqrt(self.table.dim)),
      name=f'{self.table.name}_projection',
    )(parts[0])

  def placed(self, place: Callable[[Table], Table]) -> 'Encoding':
    """The same with its table elsewhere."""
    return dataclasses.replace(self, table=place(self.table))

  def layers(self) -> int:
    """The matrix."""
    return self.table.dim * self.width
