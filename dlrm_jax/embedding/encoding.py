"""Encodings: how an id becomes rows of tables, and their vectors one vector.

An encoding says *what* is looked up. Layouts say where the rows live,
optimizers how they move, and features how many ids an example has.
`docs/encodings.md` shows the whole family, with pictures.
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
    """The table of each part; the same table may occur several times."""

  @property
  @abc.abstractmethod
  def ids(self) -> int:
    """Number of ids; ids outside 0 ... ids - 1 are treated as PAD."""

  @property
  @abc.abstractmethod
  def dim(self) -> int:
    """Width of the vectors, D."""

  @property
  @abc.abstractmethod
  def pools_first(self) -> bool:
    """True: the rows of a bag are summed, then combined.

    False: the rows of each id are combined, then summed.
    """

  @abc.abstractmethod
  def rows(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Ids i32[B, L] -> rows i32[B, L] for each part; PAD stays PAD.

    Unknown ids become PAD, or rows behind the last one, which become PAD later.
    """

  @abc.abstractmethod
  def combine(self, parts: tuple[jax.Array, ...], ids: jax.Array) -> jax.Array:
    """Vectors of the parts -> f32[B, L, D]; may create linen layers.

    PAD, whose parts are zeros, gives zeros.

    Args:
      parts: vectors f32[B, L, d] of each table; for encodings that pool
        first, sums of bags f32[B, 1, d].
      ids: i32[B, L].
    """

  @abc.abstractmethod
  def placed(self, place: Callable[[Table], Table]) -> 'Encoding':
    """The same encoding with other placements of its tables."""

  @property
  @abc.abstractmethod
  def meaning(self) -> str:
    """The rows of an id, and what they are for: a text for messages.

    Encodings of equal meaning, and with tables of equal sizes, can use each
    other's rows.
    """

  def layers(self) -> int:
    """Number of parameters of its linen layers."""
    return 0

  def activations(self) -> int:
    """Number of activations of its layers for an id, or for a bag."""
    return 0

  @property
  def alike(self) -> Hashable:
    """A key: encodings with equal keys are combined in one operation."""
    return self


@dataclasses.dataclass(frozen=True)
class Plain(Encoding):
  """Id i is row i: the table has a row for every id.

  The naive complementary partition of arXiv 1909.02107.
  """

  table: Table

  @property
  def tables(self) -> tuple[Table, ...]:
    """The one table."""
    return (self.table,)

  @property
  def ids(self) -> int:
    """Number of rows of the table."""
    return self.table.rows

  @property
  def dim(self) -> int:
    """Width of the table."""
    return self.table.dim

  @property
  def pools_first(self) -> bool:
    """Always, as a bag is a sum of rows."""
    return True

  def rows(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Ids are rows."""
    return (ids,)

  def combine(self, parts: tuple[jax.Array, ...], ids: jax.Array) -> jax.Array:
    """The vector itself."""
    del ids
    return parts[0]

  def placed(self, place: Callable[[Table], Table]) -> 'Encoding':
    """The same encoding with another placement of its table."""
    return dataclasses.replace(self, table=place(self.table))

  @property
  def meaning(self) -> str:
    """Its name."""
    return 'plain'

  @property
  def alike(self) -> Hashable:
    """Plain encodings of equal width are combined together."""
    return Plain, self.table.dim


@dataclasses.dataclass(frozen=True)
class Composed(Encoding):
  """A bucket in each of k partitions, and an operation on their vectors.

  z = omega(W_1[p_1(x)], ..., W_k[p_k(x)]). Source: arXiv 1909.02107, section
  4. Hashing is one partition; ROBE several hashes into one table.

  Attributes:
    of: tables of the first partitions; path-based encodings have only one.
    partition: function from ids to buckets.
    operation: function from the buckets' vectors to one vector.
    width: width of the vectors, D.
    sums_first: whether the vectors of a bag are summed before they are
      combined, as in facebookresearch/dlrm, and not after, as in the paper.
      It makes a difference only for operations that are not linear, and bags
      of several ids.
  """

  of: tuple[Table, ...]
  partition: Partition
  operation: Operation
  width: int
  sums_first: bool = False

  @property
  def tables(self) -> tuple[Table, ...]:
    """One table per partition; path-based encodings have only the first."""
    return self.of

  @property
  def ids(self) -> int:
    """Number of ids of the partition."""
    return self.partition.ids

  @property
  def dim(self) -> int:
    """Width of the vectors, D."""
    return self.width

  @property
  def pools_first(self) -> bool:
    """True for linear operations, for one part, or with `sums_first`."""
    alone = len(self.partition.buckets) == 1
    return alone or self.operation.linear or self.sums_first

  def rows(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Buckets are rows."""
    known = self._known(ids)
    buckets = self.partition.split(jnp.where(known, ids, 0))
    return tuple(jnp.where(known, b, PAD) for b in buckets[: len(self.of)])

  def combine(self, parts: tuple[jax.Array, ...], ids: jax.Array) -> jax.Array:
    """The operation's result; zeros for PAD."""
    sizes, name = self._choices, self.of[0].name
    if not sizes:
      return self.operation.combine(parts, (), (), name)
    known = self._known(ids)
    choices = self.partition.split(jnp.where(known, ids, 0))[len(self.of) :]
    combined = self.operation.combine(parts, choices, sizes, name)
    return jnp.where(known[..., None], combined, 0.0)

  def _known(self, ids: jax.Array) -> jax.Array:
    return (ids >= 0) & (ids < self.partition.ids)

  def placed(self, place: Callable[[Table], Table]) -> 'Encoding':
    """The same encoding with other placements of its tables."""
    return dataclasses.replace(self, of=tuple(map(place, self.of)))

  @property
  def meaning(self) -> str:
    """The partition and the operation."""
    return f'{self.partition} with {self.operation}'

  @property
  def alike(self) -> Hashable:
    """Operations without layers depend only on the widths of the tables."""
    if self.layers():
      return self
    return self.operation, tuple(t.dim for t in self.of), self.pools_first

  def layers(self) -> int:
    """Number of parameters of the operation's layers."""
    return self.operation.layers(self.width, self._choices)

  def activations(self) -> int:
    """Number of activations of the operation's layers."""
    return self.operation.activations(self.width, self._choices)

  @property
  def _choices(self) -> tuple[int, ...]:
    """Numbers of buckets of the partitions without a table."""
    return self.partition.buckets[len(self.of) :]


@dataclasses.dataclass(frozen=True)
class Projected(Encoding):
  """A row of width d and a matrix that projects it to width D: z = W[x] P.

  Mixed dimensions: rare features get narrow rows. Source: A. Ginart et al.,
  arXiv 1909.11810.

  Attributes:
    table: the table, of width d.
    width: width of the vectors, D.
  """

  table: Table
  width: int

  @property
  def tables(self) -> tuple[Table, ...]:
    """The one table."""
    return (self.table,)

  @property
  def ids(self) -> int:
    """Number of rows of the table."""
    return self.table.rows

  @property
  def dim(self) -> int:
    """Width of the vectors, D."""
    return self.width

  @property
  def pools_first(self) -> bool:
    """Always, as the projection of a sum is the sum of projections."""
    return True

  def rows(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Ids are rows."""
    return (ids,)

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
    """The same encoding with another placement of its table."""
    return dataclasses.replace(self, table=place(self.table))

  @property
  def meaning(self) -> str:
    """The width to which rows are projected."""
    return f'projected to width {self.width}'

  def layers(self) -> int:
    """Number of elements of the matrix."""
    return self.table.dim * self.width
