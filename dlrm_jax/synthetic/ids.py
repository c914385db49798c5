"""The ids of a synthetic click log: drawn from a power law, or from traces."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from dlrm_jax.batch import PAD
from dlrm_jax.data.schema import Column
from dlrm_jax.traces import power_law
from dlrm_jax.traces.blocks import Pattern, make_pattern
from dlrm_jax.traces.trace import Trace

# The first number of a seed is its use, because (7,), (7, 0) and (7, 0, 0) are
# the same seed to NumPy.
_PATTERN, _SEGMENT = 1, 2


@dataclasses.dataclass(frozen=True)
class Ids:
  """A source of ids.

  Attributes:
    columns: the features.
    seed: seed of the traces.
    exponent: exponent of the power law, if there are no traces.
    traces: trace of each feature; empty: ids are drawn from the power law.
    full_bags: whether a bag has as many ids as its hotness; else their number
      is uniform in 0 ... hotness.
  """

  columns: tuple[Column, ...]
  seed: int
  exponent: float
  traces: Mapping[str, Trace]
  full_bags: bool

  @functools.cached_property
  def _patterns(self) -> tuple[Pattern, ...]:
    traces = enumerate(self.traces.values())
    return tuple(
      make_pattern(trace, [_PATTERN, self.seed, f]) for f, trace in traces
    )

  def draw(
    self, rng: np.random.Generator, n: int, split: int, block: int
  ) -> list[np.ndarray]:
    """Ids of a block, F of i32[hotness, n]; bags are filled with PAD.

    Args:
      rng: source of randomness of the block.
      n: number of examples of the block.
      split: number of the split.
      block: number of the block.
    """
    bags = []
    for feature in range(len(self.columns)):
      ids = self._of(feature, rng, n, split, block)
      bags.append(ids if self.full_bags else _cut(rng, ids))
    return bags

  def _of(
    self, feature: int, rng: np.random.Generator, n: int, split: int, block: int
  ) -> np.ndarray:
    column = self.columns[feature]
    if self.traces:
      seed = [_SEGMENT, self.seed, split, feature]
      return self._patterns[feature].block(seed, block)[:n].T.copy()
    uniform = rng.random((column.hotness, n))
    return power_law.power_law(uniform, column.rows, self.exponent)

  @property
  def mean_lengths(self) -> tuple[float, ...]:
    """Expected number of ids in a bag of each feature."""
    hotness = [column.hotness for column in self.columns]
    return tuple(x if x == 1 or self.full_bags else x / 2 for x in hotness)

  def counts(self, feature: str, examples: int) -> np.ndarray:
    """Expected number of occurrences of each id of a feature, f64[R]."""
    number = [column.name for column in self.columns].index(feature)
    column = self.columns[number]
    if self.traces:
      law = self._patterns[number].shares()
    else:
      law = power_law.probabilities(column.rows, self.exponent)
    return examples * self.mean_lengths[number] * law


def _cut(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
  """Replaces ids, i32[hotness, n], by PAD behind a uniform random length."""
  hotness, n = ids.shape
  if hotness > 1:
    lengths = rng.integers(0, hotness + 1, n)
    ids[np.arange(hotness)[:, None] >= lengths] = PAD
  return ids
