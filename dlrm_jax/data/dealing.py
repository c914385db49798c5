"""Which shard of a split each of its rows goes to.

Global shuffling in bounded memory is two steps: rows are dealt to shards like
cards, then each shard is shuffled by itself. Shards are full, so how many
rows of a part go to each follows a multivariate hypergeometric law: with the
two permutations, each order of all rows is as likely as any other. Without
shuffling, shards are filled one after the other.
"""

import itertools
from collections.abc import Sequence

import numpy as np

_EXACT = 900_000_000
"""NumPy draws from the law for fewer cards than 10^9."""


def deal(
  parts: Sequence[int], shards: Sequence[int], seed: Sequence[int] | None
) -> np.ndarray:
  """How many rows of each part go to each shard: i32[parts, shards].

  Args:
    parts: rows of each part, in order.
    shards: rows that each shard takes, as many in all.
    seed: of the shuffle; None: in order.
  """
  dealt = np.zeros((len(parts), len(shards)), np.int32)
  if seed is None:
    ends = np.cumsum([0, *parts])
    borders = np.cumsum([0, *shards])
    for number, (start, stop) in enumerate(itertools.pairwise(ends)):
      low, high = np.maximum(borders[:-1], start), np.minimum(borders[1:], stop)
      dealt[number] = np.maximum(high - low, 0)
    return dealt
  rng = np.random.default_rng(seed)
  room = np.array(shards, np.int64)
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
