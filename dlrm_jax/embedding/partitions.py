"""Partitions: k functions from ids to buckets.

Partitions are *complementary* if no two ids share all their buckets, so that
few rows, one for each bucket, still distinguish all ids. Hashes are not
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
  """k partitions of the ids 0, ..., ids - 1; concrete classes are final.

  Attributes:
    ids: number of ids; ids outside 0 ... ids - 1 are treated as PAD.
    buckets: number of buckets of each partition, m_1, ..., m_k.
  """

  ids: int
  buckets: tuple[int, ...]

  @abc.abstractmethod
  def split(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """Ids i32[...] of 0 or more -> k bucket numbers, i32[...] each."""


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

  Two partitions are the quotient-remainder trick, more the generalised one.
  Source: arXiv 1909.02107, section 3.1, items 2 and 3.

  >>> pairs = QuotientRemainder(5, (3, 2)).split(jnp.arange(5))
  >>> [x.tolist() for x in pairs]
  [[0, 1, 2, 0, 1], [0, 0, 0, 1, 1]]
  """

  def __post_init__(self) -> None:
    _check_complementary(self)

  def split(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """A digit for each partition, the lowest first."""
    digits = []
    for buckets in self.buckets:
      buckets = jnp.int32(buckets)
      digits.append(lax.rem(ids, buckets))
      ids = lax.div(ids, buckets)
    return tuple(digits)


@dataclasses.dataclass(frozen=True)
class ChineseRemainder(Partition):
  """Remainders: x mod m_j, with m_j pairwise coprime.

  By the Chinese remainder theorem no two ids below the product of all m_j share
  all remainders. Source: arXiv 1909.02107, section 3.1, item 4.

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
  """k independent hashes of any id; ids may share all their buckets.

  Bits are mixed before the remainder is taken, so that regular patterns of ids
  do not collide regularly. Sources: Weinberger et al. (the "hashing trick"),
  arXiv 0902.2206; Svenstrup et al., "Hash embeddings" (several hashes), arXiv
  1709.03933.

  Attributes:
    salt: number that selects the hash functions.

  >>> Hashes(100, (10,)).split(jnp.array([[7]]))[0].tolist()
  [[8]]
  """

  salt: int = 0

  def split(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """A hash for each partition."""
    x = mix32(ids.astype(jnp.uint32))
    if self.salt:
      x = mix32(x ^ mix32(jnp.uint32(self.salt)))
    hashes = []
    for buckets in self.buckets:
      hashes.append((x % jnp.uint32(buckets)).astype(jnp.int32))
      x = mix32(x + jnp.uint32(_GOLDEN))
    return tuple(hashes)


Buckets = Callable[[jax.Array], tuple[jax.Array, ...]]
"""Ids i32[...] -> k bucket numbers, i32[...] each, in jax.numpy."""

_MOST_BUCKETS = 10  # times the ids; with more, nearly all buckets are empty


@dataclasses.dataclass(frozen=True)
class Given(Partition):
  """Partitions by a function of the user; `given` makes and checks them.

  Attributes:
    function: function from ids to buckets.
    digest: digest of the buckets of all ids; it stands for the function where
      partitions are compared.
  """

  function: Buckets = dataclasses.field(compare=False, repr=False)
  digest: str

  def split(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    """The result of the function."""
    return tuple(x.astype(jnp.int32) for x in self.function(ids))


def given(ids: int, function: Buckets) -> Given:
  """Partitions by a function of the user; computes the buckets of all ids.

  Source: arXiv 1909.02107, definition 1.

  Args:
    ids: number of ids.
    function: function from ids to buckets.

  Raises:
    InputError: two ids share all their buckets, or a bucket is not an integer
      of 0 or more.

  >>> given(6, lambda x: (x % 3, x // 3)).buckets
  (3, 2)
  """
  # Traced, as in a step: the function must not depend on values of ids.
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
  rows = np.stack([np.asarray(x) for x in function(jnp.arange(ids))], -1)
  _check_distinct(rows)
  buckets = tuple(int(x) + 1 for x in rows.max(0))
  if max(buckets) > _MOST_BUCKETS * ids:
    raise InputError(
      f'partitions: bucket {max(buckets) - 1:,} for {ids:,} ids; a table has a '
      f'row for each up to the largest, so number the buckets 0, 1, 2, ...'
    )
  digest = hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()[:16]
  return Given(ids, buckets, function, digest)


def _check_distinct(rows: np.ndarray) -> None:
  """Raises InputError if two ids have the same buckets, rows of i32[n, k]."""
  if not np.issubdtype(rows.dtype, np.integer) or rows.min(initial=0) < 0:
    raise InputError('partitions: expected bucket numbers, integers from 0')
  order = np.lexsort(rows.T)
  same = np.all(rows[order[1:]] == rows[order[:-1]], 1)
  if same.any():
    first = int(np.argmax(same))
    a, b = sorted((int(order[first]), int(order[first + 1])))
    raise InputError(
      f'partitions: not complementary: the ids {a} and {b} share all their '
      f'buckets, {tuple(rows[a].tolist())}'
    )
