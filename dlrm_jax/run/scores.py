"""Scores of a split: by head and metric, and as text."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TypeVar

from dlrm_jax.metrics import binary, ranking
from dlrm_jax.metrics.objective import LABELS, RANKED, SHOWN

Value = TypeVar('Value')

ERROR = '_std_error'
"""Suffix of the name of a metric's standard error."""


_COUNTS = ('examples', 'clicks', 'lists', 'groups', 'groups_left_out')

GROUPS = 10
"""Number of groups of similar predictions whose calibration is told."""

ERROR_NOTE = '± one standard error, of AUC by DeLong'


def by_head(
  tallies: Mapping[str, binary.Tally], places: ranking.Places | None = None
) -> dict[str, dict[str, float]]:
  """All metrics of every head; the first one ranks lists, if there are any.

  Without tallies there is one head, named '', with the metrics of lists.
  """
  found = {head: binary.summarize(tally) for head, tally in tallies.items()}
  if places is not None:
    first = next(iter(found), '')
    found[first] = ranking.summarize(places) | found.get(first, {})
  return found


def named(split: str, of_heads: Mapping[str, Value]) -> dict[str, Value]:
  """Renames values by head to `SPLIT/HEAD`; to `SPLIT` for a single head."""
  if len(of_heads) == 1:
    (value,) = of_heads.values()
    return {split: value}
  return {f'{split}/{head}': value for head, value in of_heads.items()}


def flat_scores(
  of_heads: Mapping[str, Mapping[str, Value]],
) -> dict[str, Value]:
  """The metrics of all heads by `HEAD/METRIC`; by `METRIC` if there is one."""
  several = len(of_heads) > 1
  return {
    f'{head}/{metric}' if several else metric: value
    for head, metrics in of_heads.items()
    for metric, value in metrics.items()
  }


def with_error(scores: Mapping[str, float], metric: str) -> str:
  """A metric with its standard error, if that is known, as text.

  >>> with_error({'auc': 0.7605, 'auc_std_error': 0.0065}, 'auc')
  '0.76050 ± 0.00650'
  """
  error = scores.get(f'{metric}{ERROR}', math.nan)
  shown = _number(metric, scores[metric])
  return shown if math.isnan(error) else f'{shown} ± {error:.5f}'


def score_table(
  title: str,
  scores: Mapping[str, float],
  references: Mapping[str, Mapping[str, float]],
) -> str:
  """Metrics beside those of references, as a table of text.

  >>> scores = {'auc': 0.5, 'auc_std_error': 0.01, 'ne': math.nan}
  >>> print(score_table('test', scores, {'Bayes': {'auc': 0.8}}))
  test                                             Bayes
    auc                   0.50000 ± 0.01000      0.80000
    ne                  undefined
  ± one standard error, of AUC by DeLong
  """
  names = list(references)
  errors = any(key.endswith(ERROR) for key in scores)
  blank = ' ' * 10 if errors else ''
  head = f'{title:<18}{"":>13}{blank}'
  table = [head + ''.join(f'{name:>13}' for name in names)]
  for key in scores:
    if key.endswith(ERROR):
      continue
    error = scores.get(f'{key}{ERROR}', math.nan)
    spread = blank if math.isnan(error) else f' ± {error:.5f}'
    others = [
      _number(key, reference[key]) if key in reference else ''
      for reference in references.values()
    ]
    table.append(
      f'  {key:<16}{_number(key, scores[key]):>13}{spread}'
      + ''.join(f'{other:>13}' for other in others)
    )
  if errors:
    table.append(ERROR_NOTE)
  return '\n'.join(line.rstrip() for line in table)


def ranked_table(title: str, scores: Mapping[str, float]) -> str:
  """Metrics of lists, as a table of text.

  >>> print(ranked_table('test.rating', {'hr_10': 0.7, 'lists': 6040}))
  test.rating
    HR@10             0.70000
    lists               6,040
  """
  lines = [title]
  for metric in (*RANKED, 'lists'):
    if metric in scores:
      label = LABELS.get(metric, metric)
      lines.append(f'  {label:<16}{with_error(scores, metric):>9}')
  return '\n'.join(lines)


def calibration_groups(tally: binary.Tally) -> list[dict[str, float]]:
  """Mean predictions and click rates of groups of similar predictions.

  There are `GROUPS` groups of nearly equal total weight, in rising order;
  fewer where many predictions are equal, which stay in one group; none
  without examples. `ratio` is `predicted` / `actual`, nan without clicks.

  >>> total = binary.tally([0.0, 0.0, 4.0], [1, 0, 0], [1, 1, 0.5])
  >>> [list(group.values()) for group in calibration_groups(total)]
  ... # doctest: +ELLIPSIS
  [[2.0, 0.5, 0.5, 1.0], [0.5, 0.982..., 0.0, nan]]
  """
  curve = binary.calibration_curve(tally, GROUPS)
  return [
    {
      'examples': examples,
      'predicted': predicted,
      'actual': actual,
      'ratio': predicted / actual if actual else math.nan,
    }
    for predicted, actual, examples in zip(
      *(column.tolist() for column in curve), strict=True
    )
  ]


def calibration_table(title: str, groups: Sequence[Mapping[str, float]]) -> str:
  """Calibration by group of predictions, as a table of text.

  >>> group = {'examples': 9, 'predicted': 0.5, 'actual': 0, 'ratio': math.nan}
  >>> print(calibration_table('test', [group]))
  calibration of test, by group of predictions
         examples    predicted       actual        ratio
                9      0.50000      0.00000    undefined
  """
  lines = [f'calibration of {title}, by group of predictions']
  if not groups:
    return f'{lines[0]}: undefined, no example of a weight above 0'
  names = list(groups[0])
  lines.append('  ' + ''.join(f'{name:>13}' for name in names))
  for group in groups:
    cells = (f'{_number(name, group[name]):>13}' for name in names)
    lines.append('  ' + ''.join(cells))
  return '\n'.join(lines)


def _number(metric: str, value: float) -> str:
  if math.isnan(value):
    return 'undefined'
  if metric == 'auc_bin_bound':
    return f'{value:.1e}'
  return f'{value:,.0f}' if metric in _COUNTS else f'{value:.5f}'


def member_tables(
  kind: str,
  scores: Mapping[str, Mapping[str, Mapping[str, float]]],
  apart: Mapping[str, float],
) -> list[str]:
  r"""Metrics of the members of an ensemble, as a table of text a head.

  Args:
    kind: nodes with independent tables, or branches of a model.
    scores: member -> head -> metrics; also the ensemble, and the mean of the
      tables of nodes.
    apart: table -> divergence of the nodes' copies; empty for branches.

  >>> scores = {'auc': math.nan, 'log_loss': 0.7, 'log_loss_std_error': 0.02}
  >>> nodes = {'node 0': {'click': scores}}
  >>> print(*member_tables('nodes', nodes, {'a': 0.1}), sep='\n')
  nodes                              AUC            log-loss
    node 0                     undefined   0.70000 ± 0.02000
  divergence of tables: median 0.1, largest 0.1 (a)
  """
  heads = list(next(iter(scores.values())))
  tables = []
  for head in heads:
    title = kind if len(heads) == 1 else f'{kind}, {head}'
    known = next(iter(scores.values()))[head]
    metrics = [metric for metric in (*SHOWN, *RANKED) if metric in known]
    labels = ''.join(f'{LABELS[metric]:>20}' for metric in metrics)
    lines = [f'{title:<18}{labels}']
    for name, of_heads in scores.items():
      cells = [with_error(of_heads[head], metric) for metric in metrics]
      lines.append(f'  {name:<16}' + ''.join(f'{cell:>20}' for cell in cells))
    tables.append('\n'.join(lines))
  if not apart:
    return tables
  most = max(apart, key=lambda table: apart[table])
  middle = statistics.median(apart.values())
  tables.append(
    f'divergence of tables: median {middle:.3g}, largest {apart[most]:.3g} '
    f'({most})'
  )
  return tables
