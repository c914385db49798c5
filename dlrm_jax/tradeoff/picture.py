"""The picture of a tradeoff: AUC and log-loss against memory of the tables.

A line an encoding, from large tables to small ones; plain tables are a level
with its band, since all others are measured by it. Bars and band are one
standard deviation over seeds.
"""

import io
import math
from typing import TYPE_CHECKING

from dlrm_jax.tradeoff.study import METRICS, Point, Study

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart, and an olive;
# markers tell lines apart in grey. Where there are more, they are dashed.
_COLORS = (
  *('#0072b2', '#d55e00', '#009e73', '#cc79a7'),
  *('#56b4e9', '#e69f00', '#8c564b', '#999933'),
)
_MARKERS = 'os^Dv<>phX*'
_PLAIN = '#333333'
_APART = 2  # points between lines of equal memory
_STYLE = {
  'font.family': 'DejaVu Sans',  # comes with matplotlib
  'font.size': 10.5,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'axes.xmargin': 0.08,
  'grid.alpha': 0.25,
  'legend.frameon': False,
  'lines.linewidth': 1.6,
  'lines.markersize': 6,
  'errorbar.capsize': 3,
  'text.parse_math': False,
}


def _lines(study: Study) -> dict[str, list[Point]]:
  """Points that have a run, by encoding and falling size, without plain."""
  found: dict[str, list[Point]] = {}
  for point in study.points[1:]:
    found.setdefault(point.encoding, [])
    if point.scores:
      found[point.encoding].append(point)
  return {
    name: sorted(points, key=lambda p: -p.size.bytes)
    for name, points in found.items()
    if points
  }


def _bar(deviation: float) -> float:
  """Half the length of a bar; none where there is one seed."""
  return 0.0 if math.isnan(deviation) else deviation


def _draw_plain(axes: 'Axes', plain: Point, metric: str) -> None:
  if not plain.scores:
    return
  mean, deviation = plain.spread(metric)
  bar = _bar(deviation)
  axes.axhspan(mean - bar, mean + bar, color=_PLAIN, alpha=0.13, linewidth=0)
  axes.axhline(mean, color=_PLAIN, linewidth=1, linestyle='--')
  style = {'color': _PLAIN, 'markersize': 8, 'zorder': 4}
  axes.errorbar(plain.size.bytes, mean, bar, fmt='*', label='plain', **style)


def _draw_memory(axes: 'Axes', study: Study) -> None:
  """Memory on a log scale below, times smaller than plain above."""
  from matplotlib.ticker import FixedLocator, NullLocator

  from dlrm_jax.text import human

  plain = study.points[0].size.bytes
  ratios = sorted({point.ratio for point in study.points})
  axes.set_xscale('log')
  axes.set_xlabel('memory of the tables')
  axes.xaxis.set_major_locator(FixedLocator([plain / r for r in ratios]))
  axes.xaxis.set_minor_locator(NullLocator())
  axes.xaxis.set_major_formatter(
    lambda x, _: f'{human(x)}\n1/{plain / x:g}' if x < plain else human(x)
  )


def _draw(figure: 'Figure', axes: 'Axes', study: Study, metric: str) -> None:
  from matplotlib.transforms import ScaledTranslation

  _draw_plain(axes, study.points[0], metric)
  lines = _lines(study)
  for number, (name, points) in enumerate(lines.items()):
    spreads = [point.spread(metric) for point in points]
    drawn = axes.errorbar(
      [point.size.bytes for point in points],
      [spread.mean for spread in spreads],
      [_bar(spread.deviation) for spread in spreads],
      fmt=_MARKERS[number % len(_MARKERS)],
      linestyle='-' if number < len(_COLORS) else '--',
      color=_COLORS[number % len(_COLORS)],
      elinewidth=1,
      label=name,
    )
    # Else bars of equal memory would hide each other. Moved once it is drawn,
    # as limits of axes leave out what has a transform of its own.
    inches = (number - (len(lines) - 1) / 2) * _APART / 72
    aside = ScaledTranslation(inches, 0, figure.dpi_scale_trans)
    for artist in drawn.get_children():
      artist.set_transform(axes.transData + aside)
  _draw_memory(axes, study)
  axes.set_ylabel(f'{study.split} {METRICS[metric]}')


def picture(study: Study) -> bytes:
  """A PNG, 1,600 pixels wide."""
  import matplotlib as mpl
  from matplotlib.figure import Figure

  with mpl.rc_context(_STYLE):
    figure = Figure(figsize=(10, 4.9), dpi=160, layout='constrained')
    for axes, metric in zip(figure.subplots(1, 2), METRICS, strict=True):
      _draw(figure, axes, study, metric)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=4)
    file = io.BytesIO()
    figure.savefig(file, format='png')
  return file.getvalue()
