"""Encodings: how an id becomes rows of tables, and their vectors a vector.

An encoding says *what* is looked up. Where the rows live (layout), how they
move (optimizer) and how many ids an example has (feature) are not its
business.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.table import Table
from dlrm_jax.rows import mix32


class Encoding(abc.ABC):
  """Abstract; every concrete encoding is final."""

  @property
  @abc.abstractmethod
  def tables(self) -> tuple[Table, ...]:
    """The tables that it reads."""

  @abc.abstractmethod
  def rows(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Ids i32[B, L] -> rows i32[B, L] for each table; PAD stays PAD."""

  @abc.abstractmethod
  def combine(self, parts: tuple[jax.Array, ...]) -> jax.Array:
    """Vectors f32[..., d], one for each table -> f32[..., D]."""


@dataclasses.dataclass(frozen=True)
class Plain(Encoding):
  """Id i is row i: the table has a row for every id."""

  table: Table

  @property
  def tables(self) -> tuple[Table, ...]:
    """The one table."""
    return (self.table,)

  def rows(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Ids are rows; those that the table has not are PAD."""
    return (jnp.where(ids < self.table.rows, ids, PAD),)

  def combine(self, parts: tuple[jax.Array, ...]) -> jax.Array:
    """The vector itself."""
    return parts[0]


@dataclasses.dataclass(frozen=True)
class Hashed(Encoding):
  """Ids are hashed into the table's rows; some share a row.

  The hash mixes the bits before the remainder is taken, so that regular ids
  don't meet in regular ways. Source: the "hashing trick", Weinberger et al.,
  arXiv 0902.2206.

  >>> Hashed(Table('t', 10, 4)).rows(jnp.array([[7, PAD]]))[0].tolist()
  [[8, -1]]
  """

  table: Table

  @property
  def tables(self) -> tuple[Table, ...]:
    """The one table."""
    return (self.table,)

  def rows(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Mixed ids modulo the number of rows."""
    hashed = mix32(ids.astype(jnp.uint32)) % jnp.uint32(self.table.rows)
    return (jnp.where(ids < 0, PAD, hashed.astype(jnp.int32)),)

  def combine(self, parts: tuple[jax.Array, ...]) -> jax.Array:
    """The vector itself."""
    return parts[0]
