"""The page of an inspection: one HTML file that opens without a network."""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlrm_jax.data.prepared import Prepared
from dlrm_jax.inspect import inspection_table
from dlrm_jax.inspect.inspection import Dense, Inspection, Sparse
from dlrm_jax.report import charts, page

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_STRETCHES = 100
_NAMED = 4
_BAGS = 12

_NOTES = (
  'Coverage: share of all ids that are the most frequent 1, 10, ... ids. '
  'Unknown: share of test ids that have no row of their own. Unseen: share of '
  'test ids that the train rows read do not have; where not all were read, '
  'that is at most so.',
  'Drift: population stability index, the sum over bins of (p - q) log(p / q), '
  'p and q being the shares of train and of test. Below 0.1 is commonly '
  'called small, above 0.25 large; what is not above its noise is chance. '
  'Bins of ids are of about equal train frequency, and one has all others.',
  'AUC: on test, of this feature alone, scored by the click rate that its '
  'value has in train.',
)


def _timeline(prepared: Prepared) -> str:
  """Click rate over the rows of the raw log, a line a split."""
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
    axes.set(xlabel='rows, split after split', ylabel='click rate')
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.legend()

  return charts.chart('clicks', 'Click rate over time', draw)


def _curves(sparse: Sequence[Sparse]) -> str:
  """Share of the most frequent ids; the largest features by name."""
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


def _bag(number: int, s: Sparse) -> str:
  """How many ids the examples have."""

  def draw(axes: 'Axes') -> None:
    share = np.array(s.lengths) / max(sum(s.lengths), 1)
    axes.bar(np.arange(len(share)), share, color=charts.COLORS[0])
    axes.set(xlabel='ids an example', ylabel='share of examples')

  name = html.escape(s.name, quote=True)
  return charts.chart(f'bag{number}', f'Ids an example, {name}', draw)


def _drawn(prepared: Prepared, found: Inspection) -> dict[str, str]:
  drawn = {'Click rate over time': _timeline(prepared)}
  if found.sparse:
    drawn['Coverage of the most frequent ids'] = _curves(found.sparse)
  bags = [s for s in found.sparse if s.hotness > 1]
  for number, s in enumerate(bags[:_BAGS]):
    drawn[f'Ids an example: {html.escape(s.name)}'] = _bag(number, s)
  return drawn


def _bar(value: float, most: float) -> str:
  """A cell with a bar; nan has none."""
  share = 100 * value / most if most > 0 and value == value else 0
  return f'<td class="bar"><i style="width:{share:.2f}%"></i></td>'


def _bars(
  found: Sequence[Dense | Sparse],
  head: Sequence[str],
  cells: Callable[[Dense | Sparse], str],
  value: Callable[[Dense | Sparse], float],
) -> str:
  """A table with bars, in the order of the features."""
  most = float(np.nanmax([value(f) for f in found] + [0]))
  rows = (
    f'<th>{html.escape(f.name)}</th>{cells(f)}{_bar(value(f), most)}'
    for f in found
  )
  return page.html_table((*head, ''), rows)


def _td(*values: float, form: str = '.3f') -> str:
  return ''.join(
    f'<td>{page.number_text(value, form)}</td>' for value in values
  )


def _drift(found: Inspection) -> str:
  def cells(f: Dense | Sparse) -> str:
    return _td(f.psi, f.noise, form='.4f') + _td(f.auc)

  head = ('Feature', 'Drift', 'Noise', 'AUC')
  return _bars([*found.dense, *found.sparse], head, cells, lambda f: f.psi)


def _ids(sparse: Sequence[Sparse]) -> str:
  """Vocabulary, coverage and shares, a line a feature."""
  most = max(s.rows for s in sparse)

  def row(s: Sparse) -> str:
    return (
      f'<th>{html.escape(s.name)}</th><td>{s.rows:,}</td>'
      f'<td>{s.ids:,}</td>{_td(*s.coverage)}'
      f'{_td(s.missing, s.unknown, s.unseen)}{_bar(s.rows, most)}'
    )

  tops = ('Top 1', '10', '100', '1,000', '10 %')
  head = ('Feature', 'Rows', 'Ids', *tops, 'Missing', 'Unknown', 'Unseen', '')
  return page.html_table(head, map(row, sparse))


def _dense(dense: Sequence[Dense]) -> str:
  rows = (
    f'<th>{html.escape(d.name)}</th>{_td(d.zeros)}'
    f'{_td(*d.quantiles, form=".4g")}'
    for d in dense
  )
  quantiles = ('Least', '1 %', '25 %', 'Median', '75 %', '99 %', 'Greatest')
  return page.html_table(('Feature', 'Zeros', *quantiles), rows)


def _cards(prepared: Prepared) -> str:
  return page.html_cards(
    (
      split,
      f'{rows:,}',
      f'rows, click rate {prepared.clicks[split] / rows:.4f}',
    )
    for split, rows in prepared.splits.items()
  )


def _sections(prepared: Prepared, found: Inspection) -> Mapping[str, str]:
  features = [*found.dense, *found.sparse]
  return {
    'Plots': page.html_charts(_drawn(prepared, found)),
    'Sparse features': _ids(found.sparse) if found.sparse else '',
    'Dense features': _dense(found.dense) if found.dense else '',
    'Train against test': _drift(found) if features else '',
  }


def page_of(prepared: Prepared, found: Inspection) -> str:
  """The page; equal arguments give equal text."""
  notes = [*inspection_table.sampled(found), *_NOTES]
  body = [_cards(prepared)]
  for heading, section in _sections(prepared, found).items():
    if section:
      body += [f'<h2>{heading}</h2>', section]
  body += [f'<p class="soft">{html.escape(note)}</p>' for note in notes]
  return page.html_page(f'Data set {prepared.directory}', body)
