"""An inspection as lines for a terminal, and as JSON."""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from dlrm_jax.data.prepared import Prepared
from dlrm_jax.inspect.inspection import DenseReport, Inspection, SparseReport
from dlrm_jax.report import page

_TICKS = '▁▂▃▄▅▆▇█'
_WIDTH = 50
_PERFECT = 0.999
"""AUC of a feature alone above which it probably depends on the label."""


class LabelReport(NamedTuple):
  """A label of a split.

  Attributes:
    rows: number of examples that have it.
    positives: number of those where it is 1.
    missing: number of examples that lack it.
    rate: positives / rows; nan without rows.
    missing_share: missing / all examples.
  """

  rows: int
  positives: int
  missing: int
  rate: float
  missing_share: float


def labels_of(prepared: Prepared, split: str) -> dict[str, LabelReport]:
  """The labels of a split, by name; several labels in the set's order."""
  total, first = prepared.splits[split], prepared.schema.labels[0]
  one = {first: (total, prepared.clicks[split])}
  return {
    name: LabelReport(
      rows,
      positives,
      total - rows,
      positives / rows if rows else math.nan,
      (total - rows) / max(total, 1),
    )
    for name, (rows, positives) in (prepared.labels[split] or one).items()
  }


def first_label(prepared: Prepared) -> str:
  """The label that features are related to; empty where there is one."""
  labels = prepared.schema.labels
  return labels[0] if len(labels) > 1 else ''


def notes_of_labels(prepared: Prepared) -> Iterator[str]:
  """A line about what the first of several labels decides."""
  if first := first_label(prepared):
    yield (
      f'features are related to {first}, the first label; rows without it are '
      f'left out'
    )


def rates(
  timeline: list[list[int]], most: int
) -> tuple[list[int], list[float]]:
  """Last row and click rate of consecutive parts of a split, at most `most`."""
  size = max(1, -(-len(timeline) // most))
  parts = [timeline[k : k + size] for k in range(0, len(timeline), size)]
  rows = [sum(stretch[0] for stretch in part) for part in parts]
  clicks = [sum(stretch[1] for stretch in part) for part in parts]
  if len(rows) > 1 and 2 * rows[-1] < max(rows):  # Its rate would be noisy.
    rows[-2:], clicks[-2:] = [sum(rows[-2:])], [sum(clicks[-2:])]
  shares = [c / max(r, 1) for c, r in zip(clicks, rows, strict=True)]
  return list(itertools.accumulate(rows)), shares


def sampled(inspection: Inspection) -> Iterator[str]:
  """Number of blocks and rows read of each split."""
  for split, (total, read, rows) in inspection.read.items():
    how = 'all' if read == total else f'{read:,} random of'
    yield f'read {how} {total:,} blocks of split {split}: {rows:,} rows'


def _splits(prepared: Prepared) -> Iterator[str]:
  for split, rows in prepared.splits.items():
    shares = rates(prepared.timelines[split], _WIDTH)[1]
    low, high = min(shares), max(shares)
    step = (high - low) / len(_TICKS) or 1
    ticks = (int((rate - low) / step) for rate in shares)
    line = ''.join(_TICKS[min(tick, len(_TICKS) - 1)] for tick in ticks)
    labels = labels_of(prepared, split)
    if first_label(prepared):
      yield f'{split:<12}{rows:>13,} rows'
      yield from itertools.starmap(_label_line, labels.items())
    else:
      (label,) = labels.values()
      yield f'{split:<12}{rows:>13,} rows, click rate {label.rate:.4f}'
    yield f'  {first_label(prepared):<10}{line} {low:.4f} ... {high:.4f}'


def _label_line(name: str, label: LabelReport) -> str:
  rate = page.number_text(label.rate, '.4f')
  missing = ''
  if label.missing:
    missing = f'; {label.missing:,} rows ({label.missing_share:.2%}) lack it'
  return f'  {name:<10}{label.positives:>13,} positive, rate {rate}{missing}'


def _cells(*values: float) -> str:
  return ''.join(f'{page.number_text(value, ".3f"):>7}' for value in values)


def _dense_row(d: DenseReport) -> str:
  _, low, _, middle, _, high, _ = d.quantiles
  numbers = ''.join(f'{value:>9.3g}' for value in (low, middle, high))
  return f'{d.name[:14]:<14}{_cells(d.zeros)}{numbers}{_cells(d.psi, d.auc)}'


def _sparse_row(s: SparseReport) -> str:
  cells = _cells(*s.coverage, s.missing, s.unknown, s.unseen, s.psi, s.auc)
  return f'{s.name[:14]:<14}{s.rows:>12,}{cells}'


def inspection_lines(
  prepared: Prepared, inspection: Inspection
) -> Iterator[str]:
  """Lines for a terminal of 96 columns."""
  yield from sampled(inspection)
  yield from notes_of_labels(prepared)
  yield from _splits(prepared)
  if inspection.dense:
    yield ''
    yield 'dense           zeros       1%   median      99%  drift    AUC'
    yield from map(_dense_row, inspection.dense)
  if inspection.sparse:
    tops = ('top1', 'top10', 'top100', 'top1k')
    yield ''
    heads = (*tops, 'top10%', 'miss', 'unkn.', 'unseen', 'drift', 'AUC')
    columns = ''.join(f'{head:>7}' for head in heads)
    yield f'{"sparse":<14}{"rows":>12}{columns}'
    yield from map(_sparse_row, inspection.sparse)
  first = first_label(prepared)
  positives = f'{first}=1' if first else 'clicks'
  for feature in (*inspection.dense, *inspection.sparse):
    if feature.auc >= _PERFECT:
      yield (
        f'WARNING: {feature.name} alone tells {positives} from others (AUC '
        f'{feature.auc:.4f}): is it made of the label, or known only after it?'
      )
  for s in inspection.sparse:
    if s.hotness > 1:
      total = sum(s.lengths)
      mean = sum(n * count for n, count in enumerate(s.lengths)) / total
      longest = max(n for n, count in enumerate(s.lengths) if count)
      yield f'{s.name}: {mean:.2f} ids an example, at most {longest}'


def inspection_json(
  prepared: Prepared, inspection: Inspection
) -> dict[str, Any]:
  """All numbers, as JSON values."""
  return {
    'data': prepared.directory,
    'splits': prepared.splits,
    'clicks': prepared.clicks,
    'labels': {
      split: {k: x._asdict() for k, x in labels_of(prepared, split).items()}
      for split in prepared.splits
    },
    'timelines': prepared.timelines,
    'read': inspection.read,
    'dense': [d._asdict() for d in inspection.dense],
    'sparse': [s._asdict() for s in inspection.sparse],
  }
