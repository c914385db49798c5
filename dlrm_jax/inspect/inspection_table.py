"""An inspection as lines for a terminal, and as JSON."""

import itertools
from collections.abc import Iterator
from typing import Any

from dlrm_jax.data.prepared import Prepared
from dlrm_jax.inspect.inspection import DenseReport, Inspection, SparseReport
from dlrm_jax.report import page

_TICKS = '▁▂▃▄▅▆▇█'
_WIDTH = 50
_PERFECT = 0.999
"""AUC of a feature alone above which it probably depends on the label."""


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
    rate = prepared.clicks[split] / rows
    yield f'{split:<12}{rows:>13,} rows, click rate {rate:.4f}'
    yield f'{"":<12}{line} {low:.4f} ... {high:.4f}'


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
  for feature in (*inspection.dense, *inspection.sparse):
    if feature.auc >= _PERFECT:
      yield (
        f'WARNING: {feature.name} alone tells clicks from others (AUC '
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
    'timelines': prepared.timelines,
    'read': inspection.read,
    'dense': [d._asdict() for d in inspection.dense],
    'sparse': [s._asdict() for s in inspection.sparse],
  }
