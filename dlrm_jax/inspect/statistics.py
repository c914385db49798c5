"""What the ids and values of a log are like, in numbers; pure NumPy.

Everything is read off a `Tally`: which ids there are, how often, with how
many clicks. Dense features become tallies of bins, so that drift and AUC have
one definition for both.
"""

from typing import NamedTuple

import numpy as np

BINS = 20
"""That a feature's values are cut in to measure drift, and one for new ids."""

_PRIOR = 20  # examples of the base rate that an id's click rate starts from


class Tally(NamedTuple):
  """Occurrences of ids.

  Attributes:
    ids: i32[n], rising, each once.
    counts: i64[n].
    clicks: i64[n], of the examples that have the id.
  """

  ids: np.ndarray
  counts: np.ndarray
  clicks: np.ndarray

  @classmethod
  def of(cls, ids: np.ndarray, labels: np.ndarray) -> 'Tally':
    """Counts i32[n] with their labels f32[n]."""
    ids, place = np.unique(ids, return_inverse=True)
    clicks = np.bincount(place, labels, len(ids))
    counts = np.bincount(place, minlength=len(ids))
    return cls(ids, counts, np.rint(clicks).astype(np.int64))

  @property
  def total(self) -> int:
    """Occurrences of all ids."""
    return int(self.counts.sum())


def joined(tallies: list[Tally]) -> Tally:
  """Tallies of several parts as one; at least one."""
  if len(tallies) == 1:
    return tallies[0]
  ids, place = np.unique(
    np.concatenate([t.ids for t in tallies]), return_inverse=True
  )
  counts, clicks = (
    np.rint(np.bincount(place, np.concatenate(parts), len(ids)))
    for parts in ([t.counts for t in tallies], [t.clicks for t in tallies])
  )
  return Tally(ids, counts.astype(np.int64), clicks.astype(np.int64))


def found(tally: Tally, ids: np.ndarray) -> np.ndarray:
  """Where a tally has ids, i64[n]; its length where it has not."""
  if not len(tally.ids):
    return np.zeros(len(ids), np.intp)
  place = np.searchsorted(tally.ids, ids)
  inside = np.minimum(place, len(tally.ids) - 1)
  return np.where(tally.ids[inside] == ids, inside, len(tally.ids))


def coverage(counts: np.ndarray, ranks: np.ndarray) -> np.ndarray:
  """Share of occurrences that are of the most frequent ids, f64[n].

  Args:
    counts: i64[ids], in any order.
    ranks: how many ids, i64[n].
  """
  falling = np.cumsum(np.sort(counts)[::-1])
  if not len(falling) or not falling[-1]:
    return np.full(len(ranks), np.nan)
  return falling[np.clip(ranks, 1, len(falling)) - 1] / falling[-1]


def frequency_bins(tally: Tally) -> np.ndarray:
  """The bin of each id: about equal occurrences, frequent ids first, i64[n].

  An id that has more than a bin's share has a bin to itself.
  """
  order = np.argsort(-tally.counts, kind='stable')
  before = np.cumsum(tally.counts[order]) - tally.counts[order]
  bins = np.empty(len(order), np.int64)
  bins[order] = before * BINS // max(tally.total, 1)
  return np.unique(bins, return_inverse=True)[1].reshape(-1)


def quantile_bins(values: np.ndarray) -> np.ndarray:
  """Upper edges of bins of about equal counts; equal values stay together."""
  edges = np.quantile(values, np.arange(1, BINS) / BINS, method='higher')
  return np.unique(edges)


class Drift(NamedTuple):
  """How far two distributions are apart.

  Attributes:
    psi: population stability index.
    noise: its expectation where both are samples of one distribution.
  """

  psi: float
  noise: float


def drift(before: np.ndarray, after: np.ndarray) -> Drift:
  """The drift between two histograms of the same bins, i64[bins].

  PSI = sum over bins of (p - q) log(p / q), p and q being the shares before
  and after (Siddiqi, "Credit Risk Scorecards", 2006; the divergence of
  Kullback and Leibler, 1951, eq. 2.6). Without drift it is near (bins - 1)
  (1/n + 1/m), the mean of its chi-squared law (Yurdakul, "Statistical
  properties of population stability index", 2018). Half an occurrence is
  added to each bin, so that empty ones do not make it infinite.

  >>> round(drift(np.array([50, 50]), np.array([25, 75])).psi, 3)
  0.269
  """
  used = before + after > 0
  before, after = before[used] + 0.5, after[used] + 0.5
  p, q = before / before.sum(), after / after.sum()
  noise = (len(p) - 1) * (1 / before.sum() + 1 / after.sum())
  return Drift(float(np.sum((p - q) * np.log(p / q))), float(noise))


def id_drift(rule: Tally, before: Tally, after: Tally) -> Drift:
  """Drift of ids between `before` and `after`.

  Bins are those of `rule`, and one for ids that it does not have. It must be
  another sample than `before`: a sample has all of its own rare ids, which no
  other one has, and that would look like drift.
  """
  bins = np.append(frequency_bins(rule), BINS)

  def histogram(tally: Tally) -> np.ndarray:
    place = bins[found(rule, tally.ids)]
    return np.bincount(place, tally.counts, BINS + 1).astype(np.int64)

  return drift(histogram(before), histogram(after))


def auc_alone(train: Tally, test: Tally) -> float:
  """AUC on test where an id is scored by its click rate in train.

  Rates are drawn towards the base rate, as if each id had `_PRIOR` examples
  more. Ties count one half; nan where test has not both labels.
  """
  if not train.total or not test.total:
    return float('nan')
  base = train.clicks.sum() / train.total
  rates = (train.clicks + _PRIOR * base) / (train.counts + _PRIOR)
  scores = np.append(rates, base)[found(train, test.ids)]
  _, place = np.unique(scores, return_inverse=True)
  clicks = np.bincount(place, test.clicks)
  others = np.bincount(place, test.counts - test.clicks)
  pairs = clicks.sum() * others.sum()
  below = np.cumsum(others) - others
  won = np.sum(clicks * (below + others / 2))
  return float(won / pairs) if pairs else float('nan')
