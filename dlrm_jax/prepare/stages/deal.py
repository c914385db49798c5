"""How many rows of each part of a log go to each of its shards.

Global shuffling in bounded memory is two steps: rows are dealt to shards like
cards, then each shard is shuffled by itself. Shards are full, so how many
rows of a part go to each follows a multivariate hypergeometric law: with the
two permutations, each order of all rows is as likely as any other.
"""

import enum
from collections.abc import Sequence

import numpy as np

_EXACT = 900_000_000
"""NumPy draws from the law for fewer cards than 10^9."""

SHUFFLE = 2
"""Version of the shuffle, which a set says: another gives another order."""


class Use(enum.IntEnum):
  """What a random stream is for; the first number of its seed."""

  PARTS = 1
  PART = 2
  BUNDLE = 3
  CHUNK = 4
  SHARD = 5


Seed = tuple[int, ...]
"""Of a stream: a `Use`, the seed of the set, the split, and what it is of."""


def deal(
  parts: Sequence[int] | np.ndarray,
  piles: Sequence[int] | np.ndarray,
  seed: Seed,
) -> np.ndarray:
  """How many rows of each part go to each pile: i32[parts, piles].

  Args:
    parts: rows of each part, in order.
    piles: rows that each pile takes, as many in all.
    seed: of the draw.
  """
  dealt = np.zeros((len(parts), len(piles)), np.int32)
  rng = np.random.default_rng(seed)
  room = np.array(piles, np.int64)
  for number, rows in enumerate(parts):
    if (left := room.sum()) < _EXACT:
      drawn = rng.multivariate_hypergeometric(room, rows, method='marginals')
    else:
      # A part is less than a thousandth of this: with or without replacement
      # is one.
      drawn = np.minimum(rng.multinomial(rows, room / left), room)
      drawn[np.argmax(room)] += rows - drawn.sum()
    dealt[number] = drawn
    room -= drawn
  return dealt
