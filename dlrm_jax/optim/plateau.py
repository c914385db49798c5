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

  def product(self, gains: Iterable[float]) -> float:
    """The product of all factors after some evaluations.

    Args:
      gains: the objective of each evaluation in order; higher is better.

    >>> Plateau(0.1, patience=1, least=0.05).product([0.7, 0.8, 0.8, 0.6])
    0.05
    """
    best, waited, product = float('-inf'), 0, 1.0
    for gain in gains:
      waited = 0 if gain > best else waited + 1
      best = max(best, gain)
      if waited == self.patience:
        product, waited = max(product * self.factor, self.least), 0
    return product
