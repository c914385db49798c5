"""Statistics of ids and values: coverage, drift, AUC of a feature alone.

All of them are computed from `IdCounts`, in NumPy. Dense values are cut into
bins, whose numbers are then treated as ids.
"""

from typing import NamedTuple

import numpy as np

BINS = 20
"""Number of bins of a feature for drift; ids have one more, for new ids."""

_PRIOR = 20  # Examples of the base rate that are added to each id.


class IdCounts(NamedTuple):
  """Counts of ids.

  Attributes:
    ids: the ids, ascending and distinct, i32[n].
    counts: number of occurrences of each id, i64[n].
    clicks: number of occurrences in clicked examples, i64[n].
  """

  ids: np.ndarray
  counts: np.ndarray
  clicks: np.ndarray

  @classmethod
  def of(cls, ids: np.ndarray, labels: np.ndarray) -> 'IdCounts':
    """Counts ids, i32[n], with the labels of their examples, f32[n]."""
    ids, place = np.unique(ids, return_inverse=True)
    clicks = np.bincount(place, labels, len(ids))
    counts = np.bincount(place, minlength=len(ids))
    return cls(ids, counts, np.rint(clicks).astype(np.int64))

  @property
  def total(self) -> int:
    """Number of occurrences of all ids."""
    return int(self.counts.sum())


def merge_counts(tallies: list[IdCounts]) -> IdCounts:
  """Adds counts of several parts, one or more."""
  if len(tallies) == 1:
    return tallies[0]
  ids, place = np.unique(
    np.concatenate([t.ids for t in tallies]), return_inverse=True
  )
  counts, clicks = (
    np.rint(np.bincount(place, np.concatenate(parts), len(ids)))
    for parts in ([t.counts for t in tallies], [t.clicks for t in tallies])
  )
  return IdCounts(ids, counts.astype(np.int64), clicks.astype(np.int64))


def positions(counts: IdCounts, ids: np.ndarray) -> np.ndarray:
  """Position of each id in `counts.ids`, i64[n]; its length for absent ids."""
  if not len(counts.ids):
    return np.zeros(len(ids), np.intp)
  place = np.searchsorted(counts.ids, ids)
  inside = np.minimum(place, len(counts.ids) - 1)
  return np.where(counts.ids[inside] == ids, inside, len(counts.ids))


def coverage(counts: np.ndarray, ranks: np.ndarray) -> np.ndarray:
  """Share of all occurrences that the most frequent ids have, f64[n].

  Args:
    counts: occurrences of each id, in any order, i64[ids].
    ranks: numbers of most frequent ids, i64[n].
  """
  falling = np.cumsum(np.sort(counts)[::-1])
  if not len(falling) or not falling[-1]:
    return np.full(len(ranks), np.nan)
  return falling[np.clip(ranks, 1, len(falling)) - 1] / falling[-1]


def frequency_bins(counts: IdCounts) -> np.ndarray:
  """Bin of each id, i64[n]; bins have about equal numbers of occurrences.

  Frequent ids come first. An id with more occurrences than a bin's share has a
  bin of its own.
  """
  order = np.argsort(-counts.counts, kind='stable')
  before = np.cumsum(counts.counts[order]) - counts.counts[order]
  bins = np.empty(len(order), np.int64)
  bins[order] = before * BINS // max(counts.total, 1)
  return np.unique(bins, return_inverse=True)[1].reshape(-1)


def quantile_bins(values: np.ndarray) -> np.ndarray:
  """Upper edges of bins of about equal counts; equal values share a bin."""
  edges = np.quantile(values, np.arange(1, BINS) / BINS, method='higher')
  return np.unique(edges)


class Drift(NamedTuple):
  """Difference of two distributions.

  Attributes:
    psi: population stability index.
    noise: expected index of two samples of one distribution.
  """

  psi: float
  noise: float


def drift(before: np.ndarray, after: np.ndarray) -> Drift:
  """The drift between two histograms of the same bins, i64[bins].

  PSI = sum over bins of (p - q) log(p / q), p and q being the shares before
  and after (Siddiqi, "Credit Risk Scorecards", 2006; the divergence of
  Kullback and Leibler, 1951, eq. 2.6). Without drift its mean is about
  (bins - 1) (1/n + 1/m), that of its chi-squared law (Yurdakul, "Statistical
  properties of population stability index", 2018). Half an occurrence is added
  to each bin, so that empty bins do not make it infinite.

  >>> round(drift(np.array([50, 50]), np.array([25, 75])).psi, 3)
  0.269
  """
  used = before + after > 0
  before, after = before[used] + 0.5, after[used] + 0.5
  p, q = before / before.sum(), after / after.sum()
  noise = (len(p) - 1) * (1 / before.sum() + 1 / after.sum())
  return Drift(float(np.sum((p - q) * np.log(p / q))), float(noise))


def id_drift(sample: IdCounts, before: IdCounts, after: IdCounts) -> Drift:
  """Drift of ids between `before` and `after`.

  Args:
    sample: ids that define the bins; other ids have one more bin. It must be
      independent of `before`: a sample has all of its own rare ids, while other
      samples lack many of them, which would look like drift.
    before: counts before.
    after: counts after.
  """
  bins = np.append(frequency_bins(sample), BINS)

  def histogram(counts: IdCounts) -> np.ndarray:
    place = bins[positions(sample, counts.ids)]
    return np.bincount(place, counts.counts, BINS + 1).astype(np.int64)

  return drift(histogram(before), histogram(after))


def auc_alone(train: IdCounts, test: IdCounts) -> float:
  """AUC on test, where ids are scored by their click rates in train.

  Rates are smoothed as if each id had `_PRIOR` more examples of the base rate.
  Ties count one half. The AUC is nan if test does not have both labels.
  """
  if not train.total or not test.total:
    return float('nan')
  base = train.clicks.sum() / train.total
  rates = (train.clicks + _PRIOR * base) / (train.counts + _PRIOR)
  scores = np.append(rates, base)[positions(train, test.ids)]
  _, place = np.unique(scores, return_inverse=True)
  clicks = np.bincount(place, test.clicks)
  others = np.bincount(place, test.counts - test.clicks)
  pairs = clicks.sum() * others.sum()
  below = np.cumsum(others) - others
  won = np.sum(clicks * (below + others / 2))
  return float(won / pairs) if pairs else float('nan')
