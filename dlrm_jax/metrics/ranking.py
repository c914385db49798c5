"""Metrics of ranked lists: HR@K, NDCG@K and MRR of one positive a list.

A list is a positive item and its candidates, each with a score. The *place* of
the positive is 1 + the number of candidates with a higher score. Candidates
with the same score as the positive are tied with it: a metric is then the mean
over all orders of the tied items, computed exactly, so that no order decides.

    HR@K    1 where the place is at most K, else 0
    NDCG@K  1 / log2(1 + place) where the place is at most K, else 0
    MRR     1 / place

The metrics of a set are the means over its lists (He et al. 2017, "Neural
collaborative filtering", section 4.1). Candidates of weight 0 are left out:
padding, and the positive itself once more, which is the same item and no rival.
"""

from typing import NamedTuple

import numpy as np

from dlrm_jax.metrics.binary import NotFinite

K = 10
"""Length of the top of a list that HR and NDCG look at."""


class Places(NamedTuple):
  """Where the positives of n lists stand among their candidates.

  Attributes:
    above: number of candidates with a higher score than the positive, i64[n].
    tied: number of candidates with the same score, i64[n].
    counted: whether a list counts; the others are padding, bool[n].
  """

  above: np.ndarray
  tied: np.ndarray
  counted: np.ndarray


def places(scores: np.ndarray, weights: np.ndarray) -> Places:
  """The places of positives, which are the first of each list.

  Args:
    scores: f32[n, L].
    weights: f32[n, L]; candidates of weight 0 are left out, and lists whose
      positive has weight 0.

  Raises:
    NotFinite: a score of weight above 0 is NaN or infinite.
  """
  counted = weights > 0
  if bad := np.sum(~np.isfinite(scores) & counted):
    raise NotFinite(f'{bad} of {np.sum(counted)} logits are not finite')
  positive, rivals = scores[:, :1], scores[:, 1:]
  return Places(
    above=np.sum((rivals > positive) & counted[:, 1:], 1),
    tied=np.sum((rivals == positive) & counted[:, 1:], 1),
    counted=counted[:, 0],
  )


def summarize(found: Places, k: int = K) -> dict[str, float]:
  """The metrics of lists by name, with standard errors; nan without lists.

  `hr_K`, `ndcg_K`, `mrr`: means over the lists that count, each with the mean
    over the orders of its tied items.
  `hr_K_std_error` and so on: standard errors of these means over lists.
  `lists`: number of lists that count.

  >>> found = Places(np.array([0, 1]), np.array([0, 1]), np.array([True, True]))
  >>> {name: round(x, 3) for name, x in summarize(found, 2).items()}
  ... # doctest: +NORMALIZE_WHITESPACE
  {'hr_2': 0.75, 'hr_2_std_error': 0.25, 'ndcg_2': 0.658,
   'ndcg_2_std_error': 0.342, 'mrr': 0.708, 'mrr_std_error': 0.292, 'lists': 2}
  """
  above, tied = found.above[found.counted], found.tied[found.counted]
  # A place is first ... last, each with an equal chance.
  first, last = above + 1, above + tied + 1
  most = int(last.max(initial=1))
  place = np.arange(1, most + 1)
  top = place <= k
  gains = {
    f'hr_{k}': top.astype(np.float64),
    f'ndcg_{k}': top / np.log2(1 + place),
    'mrr': 1 / place,
  }
  result: dict[str, float] = {}
  for name, gain in gains.items():
    sums = np.concatenate([[0.0], np.cumsum(gain)])
    values = (sums[last] - sums[first - 1]) / (tied + 1)
    result[name] = float(values.mean()) if len(values) else np.nan
    result[f'{name}_std_error'] = (
      float(values.std(ddof=1) / np.sqrt(len(values)))
      if len(values) > 1
      else np.nan
    )
  return result | {'lists': len(above)}
