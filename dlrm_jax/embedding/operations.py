"""Operations: how the vectors of an id's buckets become one, f32[..., D].

Each operation decides the widths of the partitions' tables and the scale of
their first values, so that elements of the result have the variance of a
plain table's elements, U(-b, b): b^2 / 3.
"""

import abc
import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.errors import InputError

Vectors = tuple[jax.Array, ...]


class Operation(abc.ABC):
  """Abstract; every concrete operation is final."""

  linear = False
  """Whether combining sums of vectors equals the sum of combined vectors."""

  def widths(self, dim: int, parts: int) -> tuple[int, ...]:
    """Widths of the tables, for vectors of width D from k partitions.

    Raises:
      InputError: no widths fit.
    """
    return (dim,) * parts

  @abc.abstractmethod
  def bounds(self, bound: float, dim: int, parts: int) -> tuple[float, ...]:
    """The bound b of the first values of each table, U(-b, b).

    Args:
      bound: bound of a plain table.
      dim: width of the result, D.
      parts: number of partitions, k.
    """

  @abc.abstractmethod
  def combine(
    self, vectors: Vectors, choices: Vectors, sizes: tuple[int, ...], name: str
  ) -> jax.Array:
    """Vectors f32[..., d_j] of the tables -> f32[..., D].

    Args:
      vectors: one vector for each table.
      choices: i32[...], buckets in the partitions that have no table.
      sizes: numbers of buckets of these partitions.
      name: prefix of the names of its layers.
    """

  def layers(self, dim: int, sizes: tuple[int, ...]) -> int:
    """Number of parameters of its layers."""
    del dim, sizes
    return 0

  def activations(self, dim: int, sizes: tuple[int, ...]) -> int:
    """Number of activations of its layers for an id."""
    del dim, sizes
    return 0


@dataclasses.dataclass(frozen=True)
class Add(Operation):
  """z = v_1 + ... + v_k. Source: arXiv 1909.02107, section 4."""

  linear = True

  def bounds(self, bound: float, dim: int, parts: int) -> tuple[float, ...]:
    """`bound` / sqrt(parts), as the variances of the summed parts add up."""
    del dim
    return (bound / math.sqrt(parts),) * parts

  def combine(
    self, vectors: Vectors, choices: Vectors, sizes: tuple[int, ...], name: str
  ) -> jax.Array:
    """The sum."""
    del choices, sizes, name
    return functools.reduce(jnp.add, vectors)


@dataclasses.dataclass(frozen=True)
class Concat(Operation):
  """z = (v_1, ..., v_k), each of width D / k: distinct ids differ in z.

  Source: arXiv 1909.02107, section 4 and theorem 1.
  """

  linear = True

  def widths(self, dim: int, parts: int) -> tuple[int, ...]:
    """Equal parts of D."""
    if dim % parts:
      raise InputError(
        f'width {dim} (config.model.dim) cannot be cut into {parts} equal '
        f'parts to concatenate; change config.tables.parts, or combine by mult'
      )
    return (dim // parts,) * parts

  def bounds(self, bound: float, dim: int, parts: int) -> tuple[float, ...]:
    """The bound of a plain table."""
    del dim
    return (bound,) * parts

  def combine(
    self, vectors: Vectors, choices: Vectors, sizes: tuple[int, ...], name: str
  ) -> jax.Array:
    """The concatenation."""
    del choices, sizes, name
    return jnp.concatenate(vectors, -1)


@dataclasses.dataclass(frozen=True)
class Mult(Operation):
  """z = v_1 * ... * v_k, element by element.

  Source: arXiv 1909.02107, section 4.
  """

  def bounds(self, bound: float, dim: int, parts: int) -> tuple[float, ...]:
    """The bound of a plain table for the first; mean square 1 for others.

    So the first update moves a row of the first partition as far as it would
    move a plain row.
    """
    del dim
    return (bound, *(math.sqrt(3.0),) * (parts - 1))

  def combine(
    self, vectors: Vectors, choices: Vectors, sizes: tuple[int, ...], name: str
  ) -> jax.Array:
    """The product."""
    del choices, sizes, name
    return functools.reduce(jnp.multiply, vectors)


@dataclasses.dataclass(frozen=True)
class PathBased(Operation):
  """z = M_k(... M_2(v_1)): partitions after the first choose MLPs.

  An MLP is D -> hidden -> D with ReLU between; a partition has one for each of
  its buckets. MLPs are layers, trained by the optimizer of the layers. Source:
  arXiv 1909.02107, section 4.1.

  Attributes:
    hidden: width of the hidden layer of each MLP.
  """

  hidden: int

  def widths(self, dim: int, parts: int) -> tuple[int, ...]:
    """One table."""
    if parts < 2:
      raise InputError(f'{parts} partition: a path needs 2 or more')
    return (dim,)

  def bounds(self, bound: float, dim: int, parts: int) -> tuple[float, ...]:
    """The bound of a plain table; the MLPs keep the variance."""
    del dim, parts
    return (bound,)

  def combine(
    self, vectors: Vectors, choices: Vectors, sizes: tuple[int, ...], name: str
  ) -> jax.Array:
    """The output of the last MLP."""
    x = vectors[0]
    for j, (choice, size) in enumerate(zip(choices, sizes, strict=True)):
      x = ChosenMLP(size, self.hidden, name=f'{name}_path_{j}')(x, choice)
    return x

  def layers(self, dim: int, sizes: tuple[int, ...]) -> int:
    """Two kernels and two biases for every bucket."""
    return sum(sizes) * (2 * dim * self.hidden + self.hidden + dim)

  def activations(self, dim: int, sizes: tuple[int, ...]) -> int:
    """All hidden layers, the one-hot choice beside them, and the result."""
    return sum(size * (self.hidden + 1) + dim for size in sizes)


class ChosenMLP(nn.Module):
  """Applies to each vector one of `count` MLPs with one hidden layer.

  The hidden layers of all MLPs are computed as one, and those not chosen are
  set to zero: two matrix products, whatever the choices are.

  Attributes:
    count: number of MLPs.
    hidden: width of the hidden layer of each MLP.
  """

  count: int
  hidden: int

  @nn.compact
  def __call__(self, x: jax.Array, choice: jax.Array) -> jax.Array:
    """f32[B, L, D] and i32[B, L] -> f32[B, L, D]."""
    dim, wide = x.shape[-1], self.count * self.hidden
    # He's variance after ReLU, so that variance passes through.
    enter = self.param('enter', _kernel(dim), (dim, wide))
    enter_bias = self.param('enter_bias', nn.initializers.zeros, (wide,))
    leave = self.param('leave', _kernel(self.hidden / 2), (wide, dim))
    leave_bias = self.param(
      'leave_bias', nn.initializers.zeros, (self.count, dim)
    )
    numbers = np.arange(self.count, dtype=np.int32)[None]
    chosen = choice.reshape(-1, 1)
    hidden = nn.relu(x.reshape(-1, dim) @ enter + enter_bias[None])
    hidden = jnp.where(chosen == numbers.repeat(self.hidden, 1), hidden, 0.0)
    # Biases as rows of the kernel: a gather's gradient would be a scatter.
    ones = (chosen == numbers).astype(x.dtype)
    result = jnp.concatenate([hidden, ones], 1) @ jnp.concatenate(
      [leave, leave_bias]
    )
    return result.reshape(x.shape)


def _kernel(fan: float) -> Any:
  """Initializer of N(0, 1 / fan)."""
  return nn.initializers.normal(1 / math.sqrt(fan))


@dataclasses.dataclass(frozen=True)
class TensorTrain(Operation):
  """z = G_1 G_2 ... G_k: a row is a product of small matrices.

  Bucket j chooses a core G_j, f32[r, D_j, r] with r = 1 at both ends, where
  D = D_1 D_2 ... D_k. Source: C. Yin et al., "TT-Rec", arXiv 2101.11714.

  Attributes:
    rank: rank of the train, r.
  """

  rank: int

  def widths(self, dim: int, parts: int) -> tuple[int, ...]:
    """Numbers of elements of a core of each partition."""
    if parts < 2:
      raise InputError(f'{parts} partition: a tensor train needs 2 or more')
    ranks = (1, *(self.rank,) * (parts - 1), 1)
    factors = near_equal_factors(dim, parts)
    return tuple(
      ranks[j] * factors[j] * ranks[j + 1] for j in range(len(factors))
    )

  def bounds(self, bound: float, dim: int, parts: int) -> tuple[float, ...]:
    """From the variance: an element sums r^(k - 1) products of k numbers."""
    del dim
    variance = bound**2 / 3 / self.rank ** (parts - 1)
    return (math.sqrt(3 * variance ** (1 / parts)),) * parts

  def combine(
    self, vectors: Vectors, choices: Vectors, sizes: tuple[int, ...], name: str
  ) -> jax.Array:
    """The product of the cores, from left to right."""
    del choices, sizes, name
    lead, left = vectors[0].shape[:-1], vectors[0]
    for core in vectors[1:]:
      left = left.reshape(*lead, -1, self.rank)  # [..., d, r]
      core = core.reshape(*lead, self.rank, -1)
      left = jnp.einsum('...dr,...rs->...ds', left, core)
    return left.reshape(*lead, -1)


def near_equal_factors(number: int, parts: int) -> tuple[int, ...]:
  """Whole factors of a number, as equal as possible.

  >>> near_equal_factors(16, 3), near_equal_factors(48, 3)
  ((2, 2, 4), (4, 3, 4))
  """
  if parts == 1:
    return (number,)
  root = number ** (1 / parts)
  first = max(f for f in range(1, round(root) + 1) if number % f == 0)
  return (first, *near_equal_factors(number // first, parts - 1))
