"""Power laws of popularity: the id of rank k is seen about as often as k^-s.

Ids are ranks: 0 is the most popular. The law is the continuous one, x^-s on
1 ... rows + 1, rounded down: its inverse needs no table. Exponent one is Zipf's
law. Numbers are float64 throughout: float32 would skip most ids of a table of
millions of rows.
"""

import numpy as np
from scipy.optimize import minimize_scalar

STEEPEST = 20.0
"""Largest exponent: the first id has all but two millionths."""


def power_law(uniform: np.ndarray, rows: int, exponent: float) -> np.ndarray:
  """Uniform f64 in [0, 1) to i32 ids in 0 ... rows - 1.

  >>> power_law(np.array([0.0, 0.5, 0.9]), 1000, 1.0).tolist()
  [0, 30, 500]
  """
  log_x = uniform * np.log(rows + 1)
  if exponent != 1:
    power = 1 - exponent
    # expm1 and log1p: near exponent one, the powers differ little from 1.
    log_x = np.log1p(uniform * np.expm1(power * np.log(rows + 1))) / power
  # Rounding may reach one row too far.
  return np.clip(np.exp(log_x) - 1, 0, rows - 1).astype(np.int32)


def probabilities(rows: int, exponent: float) -> np.ndarray:
  """f64[rows], the probability of each id under `power_law`."""
  rank = np.arange(1.0, rows + 1)
  weights = np.log1p(1 / rank)
  if exponent != 1:
    power = 1 - exponent
    weights = rank**power * np.expm1(power * weights) / power
  return weights / weights.sum()


def fit_exponent(counts: np.ndarray) -> float:
  """The exponent of largest likelihood for counts of ids.

  >>> round(fit_exponent(1e6 * probabilities(100, 1.2)), 4)
  1.2

  Args:
    counts: [n], in any order; zeros do not count.

  Returns:
    0 (all alike) ... 20.
  """
  counts = np.sort(counts[counts > 0])[::-1].astype(np.float64)
  if len(counts) < 2:
    return 0.0

  def loss(exponent: float) -> float:
    # Where a probability underflows, its logarithm is as good as infinite.
    law = np.maximum(probabilities(len(counts), exponent), 1e-300)
    return -float(counts @ np.log(law))

  found = minimize_scalar(
    loss, bounds=(0, STEEPEST), method='bounded', options={'xatol': 1e-6}
  )
  return float(found.x)
