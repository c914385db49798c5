"""Traces by block: a block's ids are a function of (trace, seed, number).

A trace has a memory, blocks must have none. So a feature has one *pattern*, a
trace of 2^18 ids (64 blocks of one-id examples), made once and repeated; each
repetition, a *segment*, has other ids in it. Distances within a segment are
those of the trace, segments are independent of each other.

The ids of a pattern are ranks of popularity. A segment leaves hot ids as they
are, and turns each octave of the others (ranks 2^j - 1 ... 2^(j+1) - 2) by a
number of its own: popular ids are popular in all segments, to a factor of
two. The last octave has half of the pattern's ids or more, and all that the
pattern has not, so that segments go through the whole vocabulary in time.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from dlrm_jax.data.schema import BLOCK_ROWS
from dlrm_jax.traces import power_law
from dlrm_jax.traces.trace import Trace, generate

_BLOCKS = 64  # of a segment, where an example has one id


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
  """The ids of all blocks of one feature.

  Attributes:
    trace: what they are like.
    ids: i32[blocks, n, hotness], of a segment, by rank; n = 4,096.
  """

  trace: Trace
  ids: np.ndarray

  def block(self, seed: Sequence[int], number: int) -> np.ndarray:
    """The ids of a block, i32[4096, hotness].

    Args:
      seed: of the sequence of blocks.
      number: of the block.
    """
    segment, place = divmod(number, len(self.ids))
    starts, sizes = self._octaves
    if not len(starts):
      return self.ids[place]
    rng = np.random.default_rng([*seed, segment])
    turns = rng.integers(sizes)
    rank = self.ids[place] - self.trace.hot
    octave = np.minimum(np.frexp(rank + 1)[1] - 1, len(starts) - 1)
    octave = np.maximum(octave, 0)  # of hot ids, which stay
    start = starts[octave]
    turned = start + (rank - start + turns[octave]) % sizes[octave]
    cold = self.trace.hot + turned
    return np.where(rank < 0, self.ids[place], cold).astype(np.int32)

  def probabilities(self) -> np.ndarray:
    """f64[rows], the share of each id over all segments."""
    rows, hot = self.trace.rows, self.trace.hot
    starts, sizes = self._octaves
    shares = np.bincount(self.ids.ravel(), minlength=rows) / self.ids.size
    law = power_law.probabilities(hot, self.trace.exponent)
    shares[:hot] = law * shares[:hot].sum()
    if len(starts):
      octaves = np.add.reduceat(shares[hot:], starts)
      shares[hot:] = np.repeat(octaves / sizes, sizes)
    return shares

  @functools.cached_property
  def _octaves(self) -> tuple[np.ndarray, np.ndarray]:
    """First ranks of the octaves of cold ids, and how many each has."""
    distinct = max(0, int(self.ids.max()) + 1 - self.trace.hot)
    octaves = max(min(distinct, 1), distinct.bit_length() - 1)
    starts = 2 ** np.arange(octaves) - 1
    ends = np.append(starts[1:], self.trace.rows - self.trace.hot)
    return starts, ends[:octaves] - starts


def make_pattern(trace: Trace, seed: Sequence[int]) -> Pattern:
  """Draws the pattern of a trace."""
  blocks = max(1, _BLOCKS // trace.hotness)
  shape = (blocks, BLOCK_ROWS, trace.hotness)
  rng = np.random.default_rng(seed)
  ids = generate(trace, blocks * BLOCK_ROWS * trace.hotness, rng)
  return Pattern(trace, ids.reshape(shape))
