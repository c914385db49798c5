"""Differences of two models on the same examples, with standard errors.

Chance affects both models alike, since the examples are the same, so their
difference has a smaller standard error than either metric. AUCs are compared
by the paired method of DeLong et al. 1988 (Biometrics 44), with the ranks of
Sun and Xu 2014 (IEEE Signal Processing Letters 21); log-losses by the mean of
their differences. Weights are those of `binary`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dlrm_jax.errors import InputError
from dlrm_jax.metrics import binary


class Scored(NamedTuple):
  """Predictions of a model, with their examples.

  Attributes:
    logits: logits, f32[n] or f64[n].
    labels: labels, 0 or 1, f32[n].
    weights: weights above 0, f32[n].
  """

  logits: np.ndarray
  labels: np.ndarray
  weights: np.ndarray


class Difference(NamedTuple):
  """The metric of the first model minus that of the second.

  Attributes:
    value: the difference; nan without clicks or without non-clicks.
    std_error: standard error of the difference; nan where a class has fewer
      than two examples.
    z: value / std_error; 0 where the difference is 0.
    p: probability of a |z| as large if the models were equally good.
  """

  value: float
  std_error: float
  z: float
  p: float

  @property
  def in_words(self) -> str:
    """Whether the difference may be chance, as text.

    >>> Difference(0.002, 0.001, 2.0, 0.0456).in_words
    'beyond noise at 95 % (z = +2.00, p = 0.046)'
    """
    if math.isnan(self.z):
      return 'undefined'
    where = 'beyond' if self.p < 0.05 else 'within'
    return f'{where} noise at 95 % (z = {self.z:+.2f}, p = {self.p:.2g})'


def _difference(value: float, variance: float) -> Difference:
  error = math.sqrt(variance)
  z = value / error if error else math.copysign(math.inf, value)
  z = 0.0 if value == 0 else z
  return Difference(value, error, z, math.erfc(abs(z) / math.sqrt(2)))


def _shares_below(x: np.ndarray, w: np.ndarray, at: np.ndarray) -> np.ndarray:
  """Share of the weights w of x below each value of `at`; ties count half."""
  order = np.argsort(x)
  x, total = x[order], np.concatenate([[0.0], np.cumsum(w[order])])
  below, upto = (total[np.searchsorted(x, at, side)] for side in _SIDES)
  return (below + upto) / (2 * total[-1])


_SIDES = ('left', 'right')


def _placements(scored: Scored) -> tuple[np.ndarray, np.ndarray]:
  """For each example, the share of the other class that it is ranked right to.

  Returns:
    Shares of the clicks and of the others, f64; the mean of each is the AUC.
  """
  clicks = scored.labels == 1
  x, w = scored.logits, scored.weights.astype(np.float64)
  return (
    _shares_below(x[~clicks], w[~clicks], x[clicks]),
    1 - _shares_below(x[clicks], w[clicks], x[~clicks]),
  )


def _mean(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
  """A weighted mean, and the variance of this estimate."""
  w = weights.astype(np.float64)
  total = w.sum()
  mean = float(np.sum(w * values) / total)
  spread = float(np.sum(w * np.square(values - mean)))
  return mean, binary.variance_of_mean(spread, total, float(np.sum(w * w)))


def auc_difference(a: Scored, b: Scored) -> Difference:
  """AUC of a minus that of b, on the same examples."""
  clicks = a.labels == 1
  if clicks.all() or not clicks.any():
    return Difference(*[math.nan] * 4)
  of_clicks, of_others = (
    x - y for x, y in zip(_placements(a), _placements(b), strict=True)
  )
  value, variance = _mean(of_clicks, a.weights[clicks])
  return _difference(value, variance + _mean(of_others, a.weights[~clicks])[1])


def _losses(scored: Scored) -> np.ndarray:
  x = scored.logits.astype(np.float64)
  return np.logaddexp(0, x) - scored.labels * x


def log_loss_difference(a: Scored, b: Scored) -> Difference:
  """Log-loss of a minus that of b, on the same examples."""
  if not a.labels.size:
    return Difference(*[math.nan] * 4)
  return _difference(*_mean(_losses(a) - _losses(b), a.weights))


class RepeatedChange(NamedTuple):
  """How much worse a metric is where the same examples are scored repeatedly.

  Attributes:
    mean: mean over repeats; nan if the metric is undefined.
    std_error: its standard error, by the paired methods of this module, which
      covers the chance of the examples and of the repeats.
    repeats_std_error: the part that other repeats with the same examples would
      have, from the spread of the repeats; nan for one repeat.
  """

  mean: float
  std_error: float
  repeats_std_error: float


def auc_decrease(before: Scored, after: Sequence[Scored]) -> RepeatedChange:
  """How much lower the AUC of repeated scores is.

  Args:
    before: the scores to compare with.
    after: scores of the same examples, once for each repeat.
  """
  clicks = before.labels == 1
  if clicks.all() or not clicks.any():
    return RepeatedChange(*[math.nan] * 3)
  known, changed = _placements(before), [_placements(x) for x in after]
  changes = [
    known[side] - np.stack([x[side] for x in changed]) for side in (0, 1)
  ]
  weights = before.weights[clicks], before.weights[~clicks]
  return _change(changes, weights)


def log_loss_increase(
  before: Scored, after: Sequence[Scored]
) -> RepeatedChange:
  """How much higher the log-loss of repeated scores is; as `auc_decrease`."""
  if not before.labels.size:
    return RepeatedChange(*[math.nan] * 3)
  changes = np.stack([_losses(x) for x in after]) - _losses(before)
  return _change([changes], [before.weights])


def _change(
  changes: Sequence[np.ndarray], weights: Sequence[np.ndarray]
) -> RepeatedChange:
  """The mean of changes, whose weighted mean is the same in each class.

  Args:
    changes: for each class of examples f64[repeats, n].
    weights: for each class f32[n].
  """
  means = [_mean(x.mean(0), w) for x, w in zip(changes, weights, strict=True)]
  each = [_mean(of_repeat, weights[0])[0] for of_repeat in changes[0]]
  several = len(each) > 1
  spread = np.std(each, ddof=1) / len(each) ** 0.5 if several else math.nan
  error = math.sqrt(sum(variance for _, variance in means))
  return RepeatedChange(means[0][0], error, float(spread))


def check_same(a: Scored, b: Scored) -> None:
  """Raises an `InputError` if the examples of two models differ."""
  sizes = a.labels.size, b.labels.size
  if sizes[0] != sizes[1]:
    raise InputError(
      f'{sizes[0]:,} examples of one run against {sizes[1]:,} of the other; '
      f'expected the same rows: compare on --data=FILE, a log that both read'
    )
  for what, x, y in (
    ('labels', a.labels, b.labels),
    ('weights', a.weights, b.weights),
  ):
    different = int(np.sum(x != y))
    if different:
      raise InputError(
        f'{different:,} of {x.size:,} examples have other {what} in one run '
        'than in the other; expected the same rows in the same order: compare '
        'on --data=FILE, a log that both read'
      )
