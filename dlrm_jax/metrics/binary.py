"""Metrics of click probabilities, computed in a stream of batches.

An evaluation does not keep its examples. Each batch is added to a `Tally`:
histograms of the logits of clicks and non-clicks with 2^18 bins, and a few
sums. Tallies of batches and processes are added up, and all metrics are
computed from the total, in NumPy on the host with float64 sums. Binning may
change the AUC by at most `auc_bin_bound`, much less than its standard error.

Standard errors assume independent examples. That of the AUC is the estimate of
DeLong et al. 1988 (Biometrics 44), which needs for each example only the share
of the other class below it. Weights are importances, not repetitions: a class
counts as (sum of weights)^2 / (sum of squared weights) examples (Kish).
"""

from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.errors import InputError
from dlrm_jax.metrics.grouped import GroupScores

BINS = 1 << 18
"""Number of bins of the logit, of equal width; the outer two are unbounded."""

LIMIT = 16.0
"""The bins cover logits from -LIMIT to LIMIT."""


class NotFinite(InputError):
  """A logit is NaN or infinite, so the parameters of the model are broken."""


class Tally(NamedTuple):
  """Sums over the examples of an evaluation.

  Attributes:
    clicks: total weight of the clicks in each bin of the logit, f64[BINS].
    others: total weight of the non-clicks in each bin, f64[BINS].
    low: smallest logit in each bin, inf in an empty bin, f32[BINS].
    high: largest logit in each bin, -inf in an empty bin, f32[BINS].
    loss: weighted sum of the log-losses, in nats.
    probability: weighted sum of the predicted probabilities.
    correct: total weight of the correctly predicted examples.
    loss_squares: weighted sum of the squared log-losses.
    click_squares: sum of the squared weights of the clicks.
    other_squares: sum of the squared weights of the non-clicks.
    within: scores within groups, which are not a sum; None: the examples have
      no groups.
  """

  clicks: np.ndarray
  others: np.ndarray
  low: np.ndarray
  high: np.ndarray
  loss: float
  probability: float
  correct: float
  loss_squares: float
  click_squares: float
  other_squares: float
  within: GroupScores | None = None


def _checked(logits: Any, labels: Any, weights: Any) -> list[np.ndarray]:
  """The examples of nonzero weight, f32[n] each; raises for bad values."""
  arrays = [np.asarray(a, np.float32) for a in (logits, labels, weights)]
  if not (arrays[0].ndim == 1 and len({a.shape for a in arrays}) == 1):
    shapes = ', '.join(str(a.shape) for a in arrays)
    raise ValueError(
      f'logits, labels and weights have shapes {shapes}; expected [B] of each'
    )
  counted = arrays[2] != 0
  if not counted.all():
    arrays = [a[counted] for a in arrays]
  logits, labels, weights = arrays
  positive = (weights > 0) & np.isfinite(weights)
  for ok, what, error in (
    (np.isfinite(logits), 'logits are not finite', NotFinite),
    ((labels == 0) | (labels == 1), 'labels are neither 0 nor 1', InputError),
    (positive, 'weights are negative or infinite', InputError),
  ):
    if not ok.all():
      raise error(f'{np.sum(~ok)} of {ok.size} {what}')
  return arrays


def empty() -> Tally:
  """The tally of no examples."""
  return Tally(
    clicks=np.zeros(BINS),
    others=np.zeros(BINS),
    low=np.full(BINS, np.inf, np.float32),
    high=np.full(BINS, -np.inf, np.float32),
    loss=0.0,
    probability=0.0,
    correct=0.0,
    loss_squares=0.0,
    click_squares=0.0,
    other_squares=0.0,
  )


def tally(
  logits: Any, labels: Any, weights: Any, into: Tally | None = None
) -> Tally:
  """Adds a batch to a tally.

  Args:
    logits: logits, f32[B].
    labels: labels, 0 or 1, f32[B].
    weights: weights, f32[B]; examples of weight 0 are ignored.
    into: the tally to add to; None: an empty one. Its arrays are overwritten,
      since new arrays of this size cost more than the counting, so use only
      the result afterwards.

  Returns:
    The tally of the batch and of `into`.

  Raises:
    NotFinite: a logit is not finite; `into` is unchanged.
    InputError: a label is not 0 or 1, or a weight is negative or infinite;
      `into` is unchanged.
  """
  logits, labels, weights = _checked(logits, labels, weights)
  total = empty() if into is None else into
  x = logits.astype(np.float64)
  w = weights.astype(np.float64)
  # float64 rounds once and monotonically, so the order of logits is kept.
  position = (x + LIMIT) * (BINS / (2 * LIMIT))
  bins = np.clip(position, 0, BINS - 1).astype(np.intp)
  np.add.at(total.clicks, bins, w * labels)
  np.add.at(total.others, bins, w * (1 - labels))
  np.minimum.at(total.low, bins, logits)
  np.maximum.at(total.high, bins, logits)
  # e <= 1 for both signs, so nothing overflows or cancels.
  e = np.exp(-np.abs(x))
  loss = np.log1p(e) + np.maximum(x, 0) - labels * x
  probability = np.where(x < 0, e, 1.0) / (1 + e)
  correct = (x > 0) == (labels == 1)
  return total._replace(
    loss=total.loss + float(np.sum(w * loss)),
    probability=total.probability + float(np.sum(w * probability)),
    correct=total.correct + float(np.sum(w * correct)),
    loss_squares=total.loss_squares + float(np.sum(w * loss * loss)),
    click_squares=total.click_squares + float(np.sum(w * w * labels)),
    other_squares=total.other_squares + float(np.sum(w * w * (1 - labels))),
  )


def _ratio(a: float, b: float) -> float:
  """The quotient a / b; nan, without a warning, where b is 0."""
  return float(a / b) if b else float('nan')


def _entropy(p: float) -> float:
  """Entropy of a click of probability p, in nats."""
  return 0.0 if p in (0, 1) else -p * np.log(p) - (1 - p) * np.log1p(-p)


class _Auc(NamedTuple):
  """Area under the ROC curve, its standard error, and the bound of binning."""

  area: float
  std_error: float
  bin_bound: float


def _auc(t: Tally) -> _Auc:
  clicks, others = t.clicks.sum(), t.others.sum()
  pairs = clicks * others
  if not pairs:
    return _Auc(*[float('nan')] * 3)
  together = t.clicks * t.others
  # Share of non-clicks below each click, and of clicks above each non-click.
  below = (np.cumsum(t.others) - t.others / 2) / others
  above = 1 - (np.cumsum(t.clicks) - t.clicks / 2) / clicks
  won = np.sum(t.clicks * (np.cumsum(t.others) - t.others)) + together.sum() / 2
  area = won / pairs
  unresolved = together[t.low < t.high].sum()
  variance = variance_of_mean(
    np.sum(t.clicks * np.square(below - area)), clicks, t.click_squares
  ) + variance_of_mean(
    np.sum(t.others * np.square(above - area)), others, t.other_squares
  )
  return _Auc(float(area), variance**0.5, _ratio(unresolved / 2, pairs))


def variance_of_mean(spread: float, weight: float, squares: float) -> float:
  """Variance of a weighted mean, estimated from its examples.

  Args:
    spread: weighted sum of the squared distances to the mean.
    weight: sum of the weights.
    squares: sum of the squared weights.

  Returns:
    The variance; nan where there are fewer than two examples.
  """
  count = _ratio(weight * weight, squares)  # number of examples, by Kish
  return _ratio(max(spread, 0.0) / weight, count - 1) if count > 1 else np.nan


def _log_loss(t: Tally, examples: float) -> tuple[float, float]:
  """Mean log-loss, and its standard error."""
  if not examples:
    return float('nan'), float('nan')
  mean = t.loss / examples
  spread = t.loss_squares - mean * t.loss
  squares = t.click_squares + t.other_squares
  return mean, float(variance_of_mean(spread, examples, squares) ** 0.5)


def _average_precision(t: Tally) -> float:
  """Mean precision at the logits of the clicks, defined as in scikit-learn."""
  clicks = np.cumsum(t.clicks[::-1])
  all_ = np.cumsum((t.clicks + t.others)[::-1])
  precision = clicks / np.maximum(all_, np.finfo(np.float64).tiny)
  return _ratio(np.sum(t.clicks[::-1] * precision), clicks[-1])


def roc_curve(t: Tally, points: int = 500) -> tuple[np.ndarray, np.ndarray]:
  """False and true positive rates at falling thresholds.

  At most `points` points are kept, evenly along the curve, with (0, 0) and
  (1, 1).

  Returns:
    `fpr` and `tpr`, f64[P] each; empty without clicks or without non-clicks.
  """
  if not (t.clicks.any() and t.others.any()):
    return np.empty(0), np.empty(0)
  tpr, fpr = (
    np.concatenate([[0.0], np.cumsum(counts[::-1])])
    for counts in (t.clicks, t.others)
  )
  tpr, fpr = tpr / tpr[-1], fpr / fpr[-1]
  keep = np.unique(np.searchsorted(tpr + fpr, np.linspace(0, 2, points)))
  return fpr[keep], tpr[keep]


class Calibration(NamedTuple):
  """Groups of examples of similar predictions, in rising order.

  Attributes:
    predicted: mean predicted probability of each group, up to the width of a
      bin, f64[P].
    observed: share of clicks, f64[P].
    count: total weight of the examples, f64[P].
  """

  predicted: np.ndarray
  observed: np.ndarray
  count: np.ndarray


def calibration_curve(t: Tally, bins: int = 20) -> Calibration:
  """Mean predictions and click rates of `bins` groups of equal size.

  Examples of one bin of the logit stay in one group, which may make groups
  fewer and less equal.
  """
  filled = t.low <= t.high
  clicks, count = t.clicks[filled], (t.clicks + t.others)[filled]
  middle = (t.low[filled].astype(np.float64) + t.high[filled]) / 2
  # Beyond +-100 a float64 probability no longer changes.
  probability = 1 / (1 + np.exp(-np.clip(middle, -100, 100)))
  rank = np.cumsum(count) - count / 2
  group = (rank / count.sum() * bins).astype(np.intp)
  total, predicted, observed = (
    np.bincount(group, values, bins)
    for values in (count, count * probability, clicks)
  )
  kept = total > 0
  total = total[kept]
  return Calibration(predicted[kept] / total, observed[kept] / total, total)


def lacking(examples: float, clicks: float) -> str | None:
  """The reason why the AUC is undefined; None where it is defined.

  >>> lacking(20, 0), lacking(20, 5)
  ('no clicks', None)

  Args:
    examples: total weight of the examples.
    clicks: total weight of the clicks.
  """
  if not examples:
    return 'no example of a weight above 0'
  if not clicks:
    return 'no clicks'
  return 'nothing but clicks' if clicks == examples else None


def summarize(t: Tally) -> dict[str, float]:
  """All metrics by name; undefined ones are nan.

  `auc`: chance that a click has a higher logit than a non-click; pairs in one
    bin count one half.
  `auc_std_error`: standard error of `auc` by DeLong. With thousands of clicks
    and of non-clicks, 19 of 20 samples of the same size have an AUC within two
    standard errors.
  `auc_bin_bound`: half the share of the (click, non-click) pairs in a bin with
    different logits. The exact AUC, with ties counted one half, is within
    `auc` +- `auc_bin_bound`.
  `pr_auc`: average precision; each bin is one threshold.
  `log_loss`: mean, in nats.
  `log_loss_std_error`: its standard error.
  `ne`: log-loss over the entropy of the base rate (He et al. 2014, eq. 1).
  `accuracy`: a probability above one half predicts a click.
  `calibration`: mean prediction over base rate.
  `examples`, `clicks`: sums of weights.
  `base_rate`, `mean_prediction`: share of clicks, mean probability.
  `uauc`, `wuauc`, `groups`, `groups_left_out`: see `grouped`; only where
    examples have groups.

  >>> total = tally([2.0, -1.0, 0.5], [1, 0, 0], [1, 1, 1])
  >>> summarize(total)['auc'], summarize(total)['auc_bin_bound']
  (1.0, 0.0)
  """
  clicks = t.clicks.sum()
  examples = clicks + t.others.sum()
  base_rate = _ratio(clicks, examples)
  log_loss, log_loss_error = _log_loss(t, examples)
  auc = _auc(t)
  return {
    'auc': auc.area,
    'auc_std_error': auc.std_error,
    'auc_bin_bound': auc.bin_bound,
    'pr_auc': _average_precision(t),
    'log_loss': log_loss,
    'log_loss_std_error': log_loss_error,
    'ne': _ratio(log_loss, _entropy(base_rate)),
    'accuracy': _ratio(t.correct, examples),
    'calibration': _ratio(t.probability, clicks),
    'examples': float(examples),
    'clicks': float(clicks),
    'base_rate': base_rate,
    'mean_prediction': _ratio(t.probability, examples),
    **(t.within._asdict() if t.within else {}),
  }
