"""Blocks of ids of a trace, as a function of (trace, seed, block number).

A trace is drawn in order, but blocks must be independent of each other. So a
feature has one *pattern*, a trace of 2^18 ids (64 blocks of one-id examples),
which is drawn once and then repeated. Each repetition, a *segment*, replaces
the cold ids. Stack distances within a segment are those of the trace.

The ids of a pattern are ranks of popularity. A segment keeps hot ids, and
rotates each octave of the cold ids (ranks 2^j - 1 ... 2^(j+1) - 2) by a random
number, so that the popularity of an id varies at most by a factor of two. The
last octave also contains the ids that are not in the pattern, so that segments
reach the whole vocabulary in time.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from dlrm_jax.data.schema import BLOCK_ROWS
from dlrm_jax.traces import power_law
from dlrm_jax.traces.trace import Trace, generate

_BLOCKS = 64  # blocks of a segment, if an example has one id


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
  """The ids of all blocks of one feature.

  Attributes:
    trace: distribution of the ids.
    ids: ranks of the ids of a segment, i32[blocks, 4096, hotness].
  """

  trace: Trace
  ids: np.ndarray

  def block(self, seed: Sequence[int], number: int) -> np.ndarray:
    """The ids of a block, i32[4096, hotness].

    Args:
      seed: seed of the sequence of blocks.
      number: number of the block.
    """
    segment, place = divmod(number, len(self.ids))
    starts, sizes = self._octaves
    if not len(starts):
      return self.ids[place]
    rng = np.random.default_rng([*seed, segment])
    turns = rng.integers(sizes)
    rank = self.ids[place] - self.trace.hot
    octave = np.minimum(np.frexp(rank + 1)[1] - 1, len(starts) - 1)
    octave = np.maximum(octave, 0)  # Unused for hot ids.
    start = starts[octave]
    turned = start + (rank - start + turns[octave]) % sizes[octave]
    cold = self.trace.hot + turned
    return np.where(rank < 0, self.ids[place], cold).astype(np.int32)

  def shares(self) -> np.ndarray:
    """Expected share of each id over all segments, f64[rows]."""
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
    """First rank and size of each octave of cold ids."""
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
