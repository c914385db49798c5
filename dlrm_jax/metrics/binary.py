"""Metrics of click probabilities: streamed, exact or with a bound.

An evaluation never keeps its examples. Each batch becomes a `Tally`: weights
of clicks and of non-clicks over 2^18 bins of the logit, and a few sums.
Tallies add up, over batches and processes, and every metric is read off the
total. Ranking metrics see logits through the bins: `auc_bin_bound` bounds what
that may cost the AUC. What chance does to a metric is another thing and much
larger: its standard error. All in numpy on the host; sums are float64.

Standard errors are those of a sample of independent examples. Of the AUC it is
the estimate of DeLong et al. 1988 (Biometrics 44), which needs of each example
only the share of the other class that lies below it, and so no more than the
bins. Weights say how much an example matters, not how often it was seen: a
class counts as (sum of weights)^2 / (sum of squared weights) examples (Kish).
"""

from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.errors import InputError

BINS = 1 << 18
"""Bins of the logit, of equal width; the first and the last are open."""

LIMIT = 16.0
"""The bins span the logits from -LIMIT to LIMIT."""


class NotFinite(InputError):
  """A logit is NaN or infinite: the parameters that made it are broken."""


class Tally(NamedTuple):
  """What an evaluation remembers of the examples that it saw.

  Attributes:
    clicks: f64[BINS], weight of the clicks by bin of the logit.
    others: f64[BINS], the same of the examples that are not clicks.
    low: f32[BINS], the least logit in a bin, inf in an empty one.
    high: f32[BINS], the greatest, -inf in an empty one.
    loss: sum of the log-losses, in nats.
    probability: sum of the predicted probabilities.
    correct: weight of the examples that were predicted correctly.
    loss_squares: weighted sum of the squared log-losses.
    click_squares: sum of the squared weights of the clicks.
    other_squares: the same of the examples that are not clicks.
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


def _checked(logits: Any, labels: Any, weights: Any) -> list[np.ndarray]:
  """The examples of weight above 0, f32[n] each; raises on a bad one."""
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
  """Counts one batch.

  Args:
    logits: f32[B].
    labels: f32[B], 0 or 1.
    weights: f32[B]; an example of weight 0 is not looked at.
    into: a tally to go on with. Its arrays are written to, as new ones of
      this size would cost more than the counting: use the result instead.

  Returns:
    The tally of the batch, and of what was in `into`.

  Raises:
    NotFinite: how many logits are not finite.
    InputError: how many labels are not 0 or 1, or weights are negative. In
      both cases `into` is as it was.
  """
  logits, labels, weights = _checked(logits, labels, weights)
  total = empty() if into is None else into
  x = logits.astype(np.float64)
  w = weights.astype(np.float64)
  # Exact in float64 but for one monotone rounding: order is never inverted.
  position = (x + LIMIT) * (BINS / (2 * LIMIT))
  bins = np.clip(position, 0, BINS - 1).astype(np.intp)
  np.add.at(total.clicks, bins, w * labels)
  np.add.at(total.others, bins, w * (1 - labels))
  np.minimum.at(total.low, bins, logits)
  np.maximum.at(total.high, bins, logits)
  # e <= 1 for either sign, so nothing overflows and nothing cancels.
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
  """Division in which a denominator of 0 gives nan, silently."""
  return float(a / b) if b else float('nan')


def _entropy(p: float) -> float:
  """Entropy of a coin, nats; 0 at 0 and 1, nan of nan."""
  return 0.0 if p in (0, 1) else -p * np.log(p) - (1 - p) * np.log1p(-p)


class _Auc(NamedTuple):
  """Area under the ROC curve, its standard error, the bound of binning."""

  area: float
  std_error: float
  bin_bound: float


def _auc(t: Tally) -> _Auc:
  clicks, others = t.clicks.sum(), t.others.sum()
  pairs = clicks * others
  if not pairs:
    return _Auc(*[float('nan')] * 3)
  together = t.clicks * t.others
  # Of a click the share of others below it, of an other that of clicks above.
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
    nan where there are not two examples.
  """
  count = _ratio(weight * weight, squares)  # how many of equal weight
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
  """Mean over the clicks of the precision at their logit (scikit-learn's)."""
  clicks = np.cumsum(t.clicks[::-1])
  all_ = np.cumsum((t.clicks + t.others)[::-1])
  precision = clicks / np.maximum(all_, np.finfo(np.float64).tiny)
  return _ratio(np.sum(t.clicks[::-1] * precision), clicks[-1])


def roc_curve(t: Tally, points: int = 500) -> tuple[np.ndarray, np.ndarray]:
  """False and true positive rate at falling thresholds, at most `points`.

  Points are thinned evenly along the curve; (0, 0) and (1, 1) are among them.

  Returns:
    `fpr`, `tpr`, f64[P] each; empty where clicks or non-clicks are missing.
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
  """Groups of examples of like predictions, in rising order.

  Attributes:
    predicted: f64[P], mean predicted probability, up to the bins' width.
    observed: f64[P], share of clicks.
    count: f64[P], weight of the examples.
  """

  predicted: np.ndarray
  observed: np.ndarray
  count: np.ndarray


def calibration_curve(t: Tally, bins: int = 20) -> Calibration:
  """Mean prediction against click rate in `bins` groups of equal counts.

  Examples of one logit stay together: then groups are fewer and less equal.
  """
  filled = t.low <= t.high
  clicks, count = t.clicks[filled], (t.clicks + t.others)[filled]
  middle = (t.low[filled].astype(np.float64) + t.high[filled]) / 2
  # Beyond +-100 a float64 probability does not change any more.
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


def lacking(examples: float, clicks: float) -> str:
  """Why examples of so much weight have no AUC; '' where they have one.

  >>> lacking(20, 0), lacking(20, 5)
  ('no clicks', '')
  """
  if not examples:
    return 'no example of a weight above 0'
  if not clicks:
    return 'no clicks'
  return 'nothing but clicks' if clicks == examples else ''


def summarize(t: Tally) -> dict[str, float]:
  """All metrics by name; one that is not defined is nan.

  `auc`: chance that a click has a higher logit than a non-click; a pair in
    one bin, tied or not, is credited one half.
  `auc_std_error`: standard error of `auc` by DeLong; with clicks and
    non-clicks in thousands, 19 of 20 samples of the same size have an AUC
    within 2 of it.
  `auc_bin_bound`: half the share of the (click, non-click) pairs that share a
    bin in which not all logits are equal. The exact AUC (ties one half) is
    within `auc` +- `auc_bin_bound`.
  `pr_auc`: average precision, a bin being one threshold.
  `log_loss`: mean, in nats.
  `log_loss_std_error`: its standard error.
  `ne`: log-loss over the entropy of the base rate (He et al. 2014, eq. 1).
  `accuracy`: a probability above one half predicts a click.
  `calibration`: mean prediction over base rate.
  `examples`, `clicks`: sums of weights.
  `base_rate`, `mean_prediction`: share of clicks, mean probability.

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
  }
