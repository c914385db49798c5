"""The metric that decides which checkpoint is the best, and when to stop."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

HIGHER = {
  'auc': True,
  'pr_auc': True,
  'accuracy': True,
  'uauc': True,
  'wuauc': True,
  'log_loss': False,
  'ne': False,
  'hr_10': True,
  'ndcg_10': True,
  'mrr': True,
}
"""Metrics that can be an objective, and whether a higher value is better."""

LABELS = {
  'auc': 'AUC',
  'log_loss': 'log-loss',
  'pr_auc': 'PR-AUC',
  'ne': 'normalised entropy',
  'accuracy': 'accuracy',
  'hr_10': 'HR@10',
  'ndcg_10': 'NDCG@10',
  'mrr': 'MRR',
  'uauc': 'uAUC',
  'wuauc': 'wuAUC',
}
"""Names of these metrics for people."""

SHOWN = ('auc', 'log_loss')
"""Metrics that are printed and drawn in any case."""

RANKED = ('hr_10', 'ndcg_10', 'mrr')
"""Metrics of lists to rank; other examples have none of them."""
WITHIN = ('uauc', 'wuauc')
"""Metrics within groups, which only data with groups has."""


@dataclasses.dataclass(frozen=True)
class Objective:
  """A validation metric and its direction.

  Attributes:
    name: name of the metric, after `HEAD/` where a model has several heads.
    higher: whether a higher value is better.
  """

  name: str = 'auc'
  higher: bool = True

  @property
  def head(self) -> str:
    """Name of the head; '' where a model has one."""
    return self.name.rpartition('/')[0]

  @property
  def metric(self) -> str:
    """Name of the metric, without the head."""
    return self.name.rpartition('/')[2]

  @property
  def label(self) -> str:
    """Name of the metric for people.

    >>> Objective('like/log_loss', higher=False).label
    'like log-loss'
    """
    return f'{self.head} {LABELS.get(self.metric, self.metric)}'.lstrip()

  def value(self, scores: Mapping[str, Any]) -> float | None:
    """The objective's value; None where it is missing or undefined.

    A metric that is undefined, such as the AUC of a split without clicks,
    never decides anything.
    """
    found = scores.get(self.name)
    known = isinstance(found, int | float) and math.isfinite(found)
    return float(found) if known else None

  def gain(self, value: float) -> float:
    """The value, negated where a lower one is better."""
    return value if self.higher else -value
