"""Partitions of ids: in which bucket an id is, in each of k ways.

Partitions are *complementary* where no two ids share all their buckets, so
that few rows, one a bucket, can still tell all ids apart. Hashes are not
complementary, but need no vocabulary.

Source: H.-J. M. Shi et al., "Compositional embeddings using complementary
partitions for memory-efficient recommendation systems", arXiv 1909.02107,
section 3.
"""

import abc
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dlrm_jax.errors import InputError
from dlrm_jax.rows import mix32

_GOLDEN = 0x9E3779B9


@dataclasses.dataclass(frozen=True)
class Partition(abc.ABC):
  """k partitions of the ids 0, ..., `ids` - 1; every concrete one is final.

  Attributes:
    ids: n, how many ids are told apart; others are not there.
    buckets: m_1, ..., m_k, how many buckets each partition has.
  """

  ids: int
  buckets: tuple[int, ...]

  @abc.abstractmethod
  def split(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Ids i32[...], 0 or more -> k numbers of buckets, i32[...] each."""


def _check_complementary(partition: Partition) -> None:
  ids, buckets = partition.ids, partition.buckets
  if min(buckets) < 1:
    raise InputError(f'buckets {buckets}: expected 1 or more in each partition')
  if math.prod(buckets) < ids:
    raise InputError(
      f'buckets {buckets}: their product is {math.prod(buckets):,}, too few to '
      f'tell {ids:,} ids apart; ask for more, or put 0 for one of them, which '
      f'is as many as it takes'
    )


@dataclasses.dataclass(frozen=True)
class QuotientRemainder(Partition):
  """The digits of an id in mixed radix: x mod m_1, (x div m_1) mod m_2, ...

  With two partitions the quotient-remainder trick; with more, the generalised
  one. Source: arXiv 1909.02107, section 3.1, items 2 and 3.

  >>> pairs = QuotientRemainder(5, (3, 2)).split(jnp.arange(5))
  >>> [x.tolist() for x in pairs]
  [[0, 1, 2, 0, 1], [0, 0, 0, 1, 1]]
  """

  def __post_init__(self) -> None:
    _check_complementary(self)

  def split(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """A digit for each partition, the lowest first."""
    found = []
    for buckets in self.buckets:
      buckets = jnp.int32(buckets)
      found.append(lax.rem(ids, buckets))
      ids = lax.div(ids, buckets)
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class ChineseRemainder(Partition):
  """Remainders: x mod m_j, with m_j pairwise coprime.

  That no two ids below their product share all remainders is the Chinese
  remainder theorem. Source: arXiv 1909.02107, section 3.1, item 4.

  >>> pairs = ChineseRemainder(5, (3, 2)).split(jnp.arange(5))
  >>> [x.tolist() for x in pairs]
  [[0, 1, 2, 0, 1], [0, 1, 0, 1, 0]]
  """

  def __post_init__(self) -> None:
    _check_complementary(self)
    for a, b in itertools.combinations(self.buckets, 2):
      if math.gcd(a, b) > 1:
        raise InputError(
          f'buckets {self.buckets}: {a} and {b} have the common divisor '
          f'{math.gcd(a, b)}; expected pairwise coprime numbers'
        )

  def split(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """A remainder for each partition."""
    return tuple(lax.rem(ids, jnp.int32(buckets)) for buckets in self.buckets)


@dataclasses.dataclass(frozen=True)
class Hashes(Partition):
  """k independent hashes of any id; ids that share all buckets are one.

  Bits are mixed before the remainder is taken, so that regular ids don't meet
  in regular ways. Source: the "hashing trick", Weinberger et al., arXiv
  0902.2206; several of them: Svenstrup et al., "Hash embeddings", arXiv
  1709.03933.

  Attributes:
    salt: other numbers are other hashes.

  >>> Hashes(100, (10,)).split(jnp.array([[7]]))[0].tolist()
  [[8]]
  """

  salt: int = 0

  def split(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """A hash for each partition."""
    x = mix32(ids.astype(jnp.uint32))
    if self.salt:
      x = mix32(x ^ mix32(jnp.uint32(self.salt)))
    found = []
    for buckets in self.buckets:
      found.append((x % jnp.uint32(buckets)).astype(jnp.int32))
      x = mix32(x + jnp.uint32(_GOLDEN))
    return tuple(found)


Buckets = Callable[[jax.Array], tuple[jax.Array, ...]]
"""Ids i32[...] -> k numbers of buckets, i32[...] each, in jax.numpy."""

_MOST_BUCKETS = 10  # times as many as there are ids: nearly all are empty


@dataclasses.dataclass(frozen=True)
class Given(Partition):
  """Partitions that a user gives; `given` sees that they are complementary.

  Attributes:
    function: ids to buckets.
    digest: of the buckets of all ids.
  """

  function: Buckets
  digest: str

  def split(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """What the function says."""
    return tuple(x.astype(jnp.int32) for x in self.function(ids))


def given(ids: int, function: Buckets) -> Given:
  """The partitions that a function makes, their buckets counted.

  Source: arXiv 1909.02107, definition 1.

  Args:
    ids: n; all of them are looked at.
    function: ids to buckets.

  Raises:
    InputError: two ids share all their buckets, or a bucket is no number.

  >>> given(6, lambda x: (x % 3, x // 3)).buckets
  (3, 2)
  """
  # As a step does it: nothing is known of the ids.
  shapes = jax.eval_shape(function, jax.ShapeDtypeStruct((2, 3), jnp.int32))
  if not isinstance(shapes, tuple | list):
    raise InputError(
      'partitions: not a tuple; expected one of k arrays, `return a, b`, or '
      '`return (a,)` for a single partition'
    )
  if not shapes or any(x.shape != (2, 3) for x in shapes):
    raise InputError(
      f'partitions: ids of shape (2, 3) give buckets of shapes '
      f'{[x.shape for x in shapes]}; expected the same shape'
    )
  found = np.stack([np.asarray(x) for x in function(jnp.arange(ids))], -1)
  _check_distinct(found)
  buckets = tuple(int(x) + 1 for x in found.max(0))
  if max(buckets) > _MOST_BUCKETS * ids:
    raise InputError(
      f'partitions: bucket {max(buckets) - 1:,} for {ids:,} ids; a table has a '
      f'row for each up to the largest, so number the buckets 0, 1, 2, ...'
    )
  digest = hashlib.sha256(found.astype(np.int64).tobytes()).hexdigest()[:16]
  return Given(ids, buckets, function, digest)


def _check_distinct(found: np.ndarray) -> None:
  """Raises where two of the ids have equal rows in i32[n, k]."""
  if not np.issubdtype(found.dtype, np.integer) or found.min(initial=0) < 0:
    raise InputError('partitions: expected bucket numbers, integers from 0')
  order = np.lexsort(found.T)
  same = np.all(found[order[1:]] == found[order[:-1]], 1)
  if same.any():
    at = int(np.argmax(same))
    a, b = sorted((int(order[at]), int(order[at + 1])))
    raise InputError(
      f'partitions: not complementary: the ids {a} and {b} share all their '
      f'buckets, {tuple(found[a].tolist())}'
    )
