"""Power laws: the k-th most popular id has a frequency of about k^-s.

Ids are ranks from 0, the most popular. The law is the continuous one, x^-s on
1 ... rows + 1, rounded down, whose inverse needs no table. Exponent 1 is Zipf's
law. All numbers are float64, because float32 would skip most ids of a table of
millions of rows.
"""

import numpy as np

STEEPEST = 20.0
"""Largest exponent; id 0 then has all accesses but two millionths."""


def power_law(uniform: np.ndarray, rows: int, exponent: float) -> np.ndarray:
  """Uniform f64[...] in [0, 1) -> ids in 0 ... rows - 1, i32[...].

  >>> power_law(np.array([0.0, 0.5, 0.9]), 1000, 1.0).tolist()
  [0, 30, 500]
  """
  log_x = uniform * np.log(rows + 1)
  if exponent != 1:
    power = 1 - exponent
    # expm1 and log1p are exact near exponent 1, where the powers are near 1.
    log_x = np.log1p(uniform * np.expm1(power * np.log(rows + 1))) / power
  # Rounding may give `rows`, one too many.
  return np.clip(np.exp(log_x) - 1, 0, rows - 1).astype(np.int32)


def probabilities(rows: int, exponent: float) -> np.ndarray:
  """Probability of each id under `power_law`, f64[rows]."""
  rank = np.arange(1.0, rows + 1)
  weights = np.log1p(1 / rank)
  if exponent != 1:
    power = 1 - exponent
    weights = rank**power * np.expm1(power * weights) / power
  return weights / weights.sum()


def fit_exponent(counts: np.ndarray) -> float:
  """The maximum-likelihood exponent for counts of ids.

  >>> round(fit_exponent(1e6 * probabilities(100, 1.2)), 4)
  1.2

  Args:
    counts: [n], in any order; zeros are ignored.

  Returns:
    Exponent in 0 (uniform) ... 20.
  """
  counts = np.sort(counts[counts > 0])[::-1].astype(np.float64)
  if len(counts) < 2:
    return 0.0

  def loss(exponent: float) -> float:
    # A probability that underflows would have an infinite logarithm.
    law = np.maximum(probabilities(len(counts), exponent), 1e-300)
    return -float(counts @ np.log(law))

  from scipy.optimize import minimize_scalar  # takes long to import

  best = minimize_scalar(
    loss, bounds=(0, STEEPEST), method='bounded', options={'xatol': 1e-6}
  )
  return float(best.x)
