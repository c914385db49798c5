"""The page of an inspection: one HTML file that needs no network."""

import html
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlrm_jax.data.prepared import Prepared
from dlrm_jax.inspect import inspection_table
from dlrm_jax.inspect.inspection import DenseReport, Inspection, SparseReport
from dlrm_jax.report import charts, page

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_STRETCHES = 100
_NAMED = 4
_BAGS = 12

_NOTES = (
  'Coverage: share of all occurrences that the most frequent 1, 10, ... ids '
  'have. Unknown: share of test ids without a row of their own. Unseen: share '
  'of test ids that are not among the train rows read; an upper bound where '
  'not all were read.',
  'Drift: population stability index, the sum over bins of (p - q) log(p / q), '
  'p and q being the shares of train and of test. Below 0.1 is commonly '
  'called small, above 0.25 large; values up to the noise are chance. Bins of '
  'ids have about equal frequency in train, with one more bin for new ids.',
  'AUC: on test, of this feature alone, scored by the rate of clicks of its '
  'value in train.',
)


def _rate(prepared: Prepared) -> str:
  """The name of the share of positives of the first label."""
  return f'{inspection_table.first_label(prepared) or "click"} rate'


def _over_time(prepared: Prepared) -> str:
  rate = _rate(prepared)
  return f'{rate[0].upper()}{rate[1:]} over time'


def _timeline(prepared: Prepared) -> str:
  """Rate of the first label over the rows of the raw log, a line a split."""
  from matplotlib.ticker import EngFormatter

  def draw(axes: 'Axes') -> None:
    first = 0
    for number, (split, rows) in enumerate(prepared.splits.items()):
      ends, rates = inspection_table.rates(
        prepared.timelines[split], _STRETCHES
      )
      middles = first + (np.append(0, ends[:-1]) + ends) / 2
      color = charts.COLORS[number % len(charts.COLORS)]
      axes.plot(middles, rates, '.-', color=color, markersize=4, label=split)
      first += rows
    axes.set(xlabel='rows, split after split', ylabel=_rate(prepared))
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.legend()

  return charts.chart('clicks', _over_time(prepared), draw)


def _curves(sparse: Sequence[SparseReport]) -> str:
  """Share of the most frequent ids of all features; names the largest four."""
  from matplotlib.ticker import EngFormatter

  largest = sorted(sparse, key=lambda s: -s.rows)[:_NAMED]

  def draw(axes: 'Axes') -> None:
    for s in sparse:
      if s not in largest:
        axes.plot(*s.curve, color=charts.INK, alpha=0.25, linewidth=0.8)
    for color, s in zip(charts.COLORS, largest, strict=False):
      axes.plot(*s.curve, color=color, label=s.name)
    axes.set(xlabel='most frequent ids', ylabel='share of all', xscale='log')
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.legend()

  return charts.chart('coverage', 'Coverage of the most frequent ids', draw)


def _bag(number: int, s: SparseReport) -> str:
  """Histogram of the number of ids of an example."""

  def draw(axes: 'Axes') -> None:
    share = np.array(s.lengths) / max(sum(s.lengths), 1)
    axes.bar(np.arange(len(share)), share, color=charts.COLORS[0])
    axes.set(xlabel='ids an example', ylabel='share of examples')

  name = html.escape(s.name, quote=True)
  return charts.chart(f'bag{number}', f'Ids an example, {name}', draw)


def _drawn(prepared: Prepared, inspection: Inspection) -> dict[str, str]:
  drawn = {html.escape(_over_time(prepared)): _timeline(prepared)}
  if inspection.sparse:
    drawn['Coverage of the most frequent ids'] = _curves(inspection.sparse)
  bags = [s for s in inspection.sparse if s.hotness > 1]
  for number, s in enumerate(bags[:_BAGS]):
    drawn[f'Ids an example: {html.escape(s.name)}'] = _bag(number, s)
  return drawn


def _bar(value: float, most: float) -> str:
  """A cell with a bar; an empty cell for nan."""
  share = 100 * value / most if most > 0 and value == value else 0
  return f'<td class="bar"><i style="width:{share:.2f}%"></i></td>'


def _bars(
  features: Sequence[DenseReport | SparseReport],
  head: Sequence[str],
  cells: Callable[[DenseReport | SparseReport], str],
  value: Callable[[DenseReport | SparseReport], float],
) -> str:
  """A table with a row and a bar for each feature."""
  most = float(np.nanmax([value(f) for f in features] + [0]))
  rows = (
    f'<th>{html.escape(f.name)}</th>{cells(f)}{_bar(value(f), most)}'
    for f in features
  )
  return page.html_table((*head, ''), rows)


def _td(*values: float, form: str = '.3f') -> str:
  return ''.join(
    f'<td>{page.number_text(value, form)}</td>' for value in values
  )


def _drift(inspection: Inspection) -> str:
  def cells(f: DenseReport | SparseReport) -> str:
    return _td(f.psi, f.noise, form='.4f') + _td(f.auc)

  head = ('Feature', 'Drift', 'Noise', 'AUC')
  return _bars(
    [*inspection.dense, *inspection.sparse], head, cells, lambda f: f.psi
  )


def _ids(sparse: Sequence[SparseReport]) -> str:
  """Table of vocabularies, coverage and shares, a row for each feature."""
  most = max(s.rows for s in sparse)

  def row(s: SparseReport) -> str:
    return (
      f'<th>{html.escape(s.name)}</th><td>{s.rows:,}</td>'
      f'<td>{s.ids:,}</td>{_td(*s.coverage)}'
      f'{_td(s.missing, s.unknown, s.unseen)}{_bar(s.rows, most)}'
    )

  tops = ('Top 1', '10', '100', '1,000', '10 %')
  head = ('Feature', 'Rows', 'Ids', *tops, 'Missing', 'Unknown', 'Unseen', '')
  return page.html_table(head, map(row, sparse))


def _dense(dense: Sequence[DenseReport]) -> str:
  rows = (
    f'<th>{html.escape(d.name)}</th>{_td(d.zeros)}'
    f'{_td(*d.quantiles, form=".4g")}'
    for d in dense
  )
  quantiles = ('Least', '1 %', '25 %', 'Median', '75 %', '99 %', 'Greatest')
  return page.html_table(('Feature', 'Zeros', *quantiles), rows)


def _cards(prepared: Prepared) -> str:
  def card(split: str, rows: int) -> tuple[str, str, str]:
    first = next(iter(inspection_table.labels_of(prepared, split).values()))
    rate = page.number_text(first.rate, '.4f')
    return split, f'{rows:,}', f'rows, {_rate(prepared)} {rate}'

  return page.html_cards(itertools.starmap(card, prepared.splits.items()))


def _labels(prepared: Prepared) -> str:
  """Table of labels, a row for each split and label."""
  rows = (
    f'<th>{html.escape(split)}</th><th>{html.escape(name)}</th>'
    f'<td>{x.rows:,}</td><td>{x.positives:,}</td>{_td(x.rate, form=".4f")}'
    f'<td>{x.missing:,}</td>{_td(x.missing_share, form=".4f")}'
    for split in prepared.splits
    for name, x in inspection_table.labels_of(prepared, split).items()
  )
  head = ('Split', 'Label', 'Rows', 'Positives', 'Rate', 'Missing', 'Share')
  return page.html_table(head, rows)


def _sections(prepared: Prepared, inspection: Inspection) -> Mapping[str, str]:
  features = [*inspection.dense, *inspection.sparse]
  several = inspection_table.first_label(prepared)
  return {
    'Labels': _labels(prepared) if several else '',
    'Plots': page.html_charts(_drawn(prepared, inspection)),
    'Sparse features': _ids(inspection.sparse) if inspection.sparse else '',
    'Dense features': _dense(inspection.dense) if inspection.dense else '',
    'Train against test': _drift(inspection) if features else '',
  }


def page_of(prepared: Prepared, inspection: Inspection) -> str:
  """The page as HTML."""
  notes = [
    *inspection_table.sampled(inspection),
    *inspection_table.notes_of_labels(prepared),
    *_NOTES,
  ]
  body = [_cards(prepared)]
  body += page.html_sections(_sections(prepared, inspection))
  body += [f'<p class="soft">{html.escape(note)}</p>' for note in notes]
  return page.html_page(f'Data set {prepared.directory}', body)
