"""The number of rows of each part of a log that go to each shard.

Shuffling a log in bounded memory takes two steps: rows are dealt to shards
like cards, then each shard is shuffled. Since shards have fixed sizes, the
numbers of a part's rows that go to the shards follow a multivariate
hypergeometric distribution. Then all orders of all rows are equally likely.
"""

import enum
from collections.abc import Sequence

import numpy as np

_EXACT = 900_000_000
"""NumPy draws from the distribution for fewer than 10^9 rows."""

SHUFFLE = 2
"""Version of the shuffle, noted in a set; versions differ in the order."""


class Purpose(enum.IntEnum):
  """Purpose of a random stream, the first number of its seed."""

  PARTS = 1
  PART = 2
  BUNDLE = 3
  CHUNK = 4
  SHARD = 5


Seed = tuple[int, ...]
"""Seed of a stream: `Purpose`, seed of the set, number of the split, and the
numbers of a part, bundle or shard."""


def deal(
  parts: Sequence[int] | np.ndarray,
  piles: Sequence[int] | np.ndarray,
  seed: Seed,
) -> np.ndarray:
  """Draws how many rows of each part go to each pile: i32[parts, piles].

  Args:
    parts: number of rows of each part, in order.
    piles: number of rows of each pile; the sums of both are equal.
    seed: seed of the draw.
  """
  dealt = np.zeros((len(parts), len(piles)), np.int32)
  rng = np.random.default_rng(seed)
  room = np.array(piles, np.int64)
  for number, rows in enumerate(parts):
    if (left := room.sum()) < _EXACT:
      drawn = rng.multivariate_hypergeometric(room, rows, method='marginals')
    else:
      # A part has less than a thousandth of the rows, so that draws with and
      # without replacement hardly differ.
      drawn = np.minimum(rng.multinomial(rows, room / left), room)
      drawn[np.argmax(room)] += rows - drawn.sum()
    dealt[number] = drawn
    room -= drawn
  return dealt
