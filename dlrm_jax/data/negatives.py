"""Negatives: examples with the user of a positive and an item drawn at random.

Every positive of a batch is followed by k negatives: the same example, but with
label 0 and another item. Items are drawn uniformly over the catalogue, those
that the user has included. A draw is a function of the seed, the number of the
step, the place of the positive in the global batch, and the number of the
negative. So it does not depend on devices, processes, or on where training was
resumed, and each epoch has other negatives.
"""

import dataclasses

import numpy as np

from dlrm_jax.data.schema import Block, each
from dlrm_jax.vocabulary.hashing import splitmix64

_USE = np.uint64(0x6E65676174697665)
"""Sets these draws apart from other uses of a seed; 64 arbitrary bits."""

_HALF = np.uint64(32)


@dataclasses.dataclass(frozen=True)
class Negatives:
  """The negatives of each positive.

  Attributes:
    count: k, their number; 0: there are none.
    column: position of the item among the ids of an example.
    first: first row that is drawn.
    items: number of rows from there on that are drawn.
  """

  count: int = 0
  column: int = 0
  first: int = 0
  items: int = 1

  def items_at(self, seed: int, positives: np.ndarray) -> np.ndarray:
    """The drawn items, i32[..., k].

    Args:
      seed: seed of the draws.
      positives: numbers of positives, in the order in which training sees
        them from its first step on, u64[...].
    """
    draws = np.arange(self.count, dtype=np.uint64)
    number = positives[..., None] * np.uint64(self.count) + draws
    start = splitmix64(np.array([seed], np.uint64) ^ _USE)
    # The high half of a 64-bit number, scaled to the number of items.
    high = splitmix64(number + start) >> _HALF
    return (high * np.uint64(self.items) >> _HALF).astype(np.int32) + np.int32(
      self.first
    )

  def added(self, block: Block, seed: int, positives: np.ndarray) -> Block:
    """Puts k negatives behind each positive: [s, P] -> [s, P (k + 1)].

    Args:
      block: the positives of s batches, P of each.
      seed: seed of the draws.
      positives: their numbers, u64[s, P]; see `items_at`.
    """
    copies = self.count + 1
    more = each(block, lambda x: np.repeat(x, copies, axis=1))
    steps, examples = positives.shape
    shape = (steps, examples, copies, -1)
    more.ids.reshape(shape)[:, :, 1:, self.column] = self.items_at(
      seed, positives
    )
    more.labels.reshape(shape)[:, :, 1:] = 0
    return more
