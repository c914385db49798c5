"""The ids of a synthetic click log, by block.

They are drawn one by one from a power law, or follow traces (see `traces`).
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from dlrm_jax.batch import PAD
from dlrm_jax.data.schema import Column
from dlrm_jax.traces import power_law
from dlrm_jax.traces.blocks import Pattern, make_pattern
from dlrm_jax.traces.trace import Trace

# Seeds begin with what they are for: NumPy takes (7,), (7, 0) and (7, 0, 0)
# for one and the same seed.
_PATTERN, _SEGMENT = 1, 2


@dataclasses.dataclass(frozen=True)
class Ids:
  """Where ids come from.

  Attributes:
    columns: the features.
    seed: of the traces.
    exponent: of the power law, where there are no traces.
    traces: what the ids of each feature are like, or none.
  """

  columns: tuple[Column, ...]
  seed: int
  exponent: float
  traces: Mapping[str, Trace]

  @functools.cached_property
  def _patterns(self) -> tuple[Pattern, ...]:
    traces = enumerate(self.traces.values())
    return tuple(
      make_pattern(trace, [_PATTERN, self.seed, f]) for f, trace in traces
    )

  def draw(
    self, rng: np.random.Generator, n: int, split: int, block: int
  ) -> list[np.ndarray]:
    """Ids of a block, F of i32[hotness, n], PAD behind a bag's last.

    Args:
      rng: that of the block.
      n: its examples.
      split: number of its split.
      block: its number.
    """
    return [
      _cut(rng, self._of(feature, rng, n, split, block))
      for feature in range(len(self.columns))
    ]

  def _of(
    self, feature: int, rng: np.random.Generator, n: int, split: int, block: int
  ) -> np.ndarray:
    column = self.columns[feature]
    if self.traces:
      seed = [_SEGMENT, self.seed, split, feature]
      return self._patterns[feature].block(seed, block)[:n].T.copy()
    uniform = rng.random((column.hotness, n))
    return power_law.power_law(uniform, column.rows, self.exponent)

  def counts(self, feature: str, examples: int) -> np.ndarray:
    """How often examples have each id, f64[R]: expected."""
    number = [column.name for column in self.columns].index(feature)
    column = self.columns[number]
    if self.traces:
      law = self._patterns[number].probabilities()
    else:
      law = power_law.probabilities(column.rows, self.exponent)
    length = 1 if column.hotness == 1 else column.hotness / 2
    return examples * length * law


def _cut(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
  """Bags of uniform lengths, 0 ... hotness: i32[hotness, n] -> the same."""
  hotness, n = ids.shape
  if hotness > 1:
    lengths = rng.integers(0, hotness + 1, n)
    ids[np.arange(hotness)[:, None] >= lengths] = PAD
  return ids
