"""AUC within groups: the mean over users of each user's own AUC.

A ranking is shown to one user at a time, and the AUC of a whole log also
counts pairs of two users' examples. uAUC and wuAUC count pairs of one group
only: uAUC is the mean of the groups' AUCs, wuAUC their mean weighted by the
impressions of each group, the sum of its examples' weights (the weighted mean
is called GAUC by Zhou et al. 2018, "Deep Interest Network", KDD, section 5).
A group without a click or without a non-click has no AUC and is left out.
Equal logits count one half, as in every AUC, so a group whose logits are all
equal has an AUC of one half; torchrec's metrics of the same names leave it out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
  """Examples that have a group.

  Attributes:
    groups: number of the group, i32[n].
    logits: logits, f32[n] or f64[n].
    labels: labels, 0 or 1, f32[n].
    weights: weights above 0, f32[n].
  """

  groups: np.ndarray
  logits: np.ndarray
  labels: np.ndarray
  weights: np.ndarray


class GroupScores(NamedTuple):
  """Metrics within groups; nan where they are undefined.

  Attributes:
    uauc: mean of the AUCs of the groups.
    wuauc: their mean weighted by the weight of each group's examples.
    groups: number of groups with a click and a non-click.
    groups_left_out: number of the other groups.
  """

  uauc: float
  wuauc: float
  groups: int
  groups_left_out: int


UNKNOWN = GroupScores(float('nan'), float('nan'), 0, 0)
"""The scores where no group has been looked at."""


def _sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
  """Sums of the stretches of values f64[n] that begin at `starts`."""
  return np.add.reduceat(values, starts) if len(starts) else np.zeros(0)


def _starts(keys: Sequence[np.ndarray]) -> np.ndarray:
  """Positions where any of the sorted keys differs from the one before."""
  n = len(keys[0])
  differs = np.ones(n, bool)
  if n:
    differs[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
  return np.flatnonzero(differs)


def group_scores(examples: Examples) -> GroupScores:
  """The metrics of all groups, exact but for rounding in float64.

  They are the same bits for any order of the examples, since examples are
  sorted by all that is known of them before anything is summed.

  >>> examples = Examples(
  ...   groups=np.array([1, 1, 1, 2, 2, 3]),
  ...   logits=np.array([0.5, 0.1, 0.9, 0.3, 0.3, 0.7]),
  ...   labels=np.array([1.0, 0, 0, 1, 0, 1]),
  ...   weights=np.ones(6),
  ... )
  >>> group_scores(examples)
  GroupScores(uauc=0.5, wuauc=0.5, groups=2, groups_left_out=1)
  """
  groups, logits, labels, weights = examples
  order = np.lexsort((weights, labels, logits, groups))
  groups, logits = groups[order], logits[order]
  clicked = labels[order] == 1
  w = weights[order].astype(np.float64)
  # A tie is a stretch of one group and one logit; a stretch of ties is a group.
  ties = _starts((groups, logits))
  clicks = _sums(np.where(clicked, w, 0), ties)
  others = _sums(np.where(clicked, 0, w), ties)
  first = _starts((groups[ties],))
  all_clicks, all_others = _sums(clicks, first), _sums(others, first)
  sizes = np.diff(np.append(first, len(ties)))
  # Non-clicks below a tie, within its group.
  running = np.cumsum(others) - others
  below = running - np.repeat(running[first], sizes)
  won = _sums(clicks * (below + others / 2), first)
  pairs = all_clicks * all_others
  counts = pairs > 0
  if not counts.any():
    return UNKNOWN._replace(groups_left_out=len(first))
  aucs = won[counts] / pairs[counts]
  weight = (all_clicks + all_others)[counts]
  return GroupScores(
    uauc=float(np.mean(aucs)),
    wuauc=float(np.sum(aucs * weight) / np.sum(weight)),
    groups=len(aucs),
    groups_left_out=len(first) - len(aucs),
  )
