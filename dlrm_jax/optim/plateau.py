"""Learning rates that fall where validation does not improve."""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Plateau:
  """When and how far learning rates fall.

  Attributes:
    factor: the rates are multiplied by this, between 0 and 1.
    patience: after this many evaluations in a row without a better objective.
    least: the product of all factors does not fall below this.
  """

  factor: float
  patience: int
  least: float

  def falls(self, gains: Iterable[float]) -> int:
    """How often the rates have fallen after some evaluations.

    Args:
      gains: the objective of each evaluation in order; higher is better.

    >>> Plateau(0.1, patience=1, least=0.001).falls([0.7, 0.8, 0.8, 0.6])
    2
    """
    best, waited, falls = float('-inf'), 0, 0
    for gain in gains:
      waited = 0 if gain > best else waited + 1
      best = max(best, gain)
      if waited == self.patience:
        falls, waited = falls + 1, 0
    return falls

  def product(self, falls: int) -> float:
    """What the rates are multiplied by after so many falls."""
    return max(self.factor**falls, self.least)
