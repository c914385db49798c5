"""The picture of a study: AUC and log-loss against memory of the tables.

Each encoding is a line. Plain tables are a dashed level, as all others are
compared with them. Bars and band are one standard deviation over seeds.
"""

import io
from typing import TYPE_CHECKING

from dlrm_jax.report.figures import load_matplotlib
from dlrm_jax.sweep.picture import STYLE, bar
from dlrm_jax.text import human
from dlrm_jax.tradeoff.study import METRICS, Point, Study

if TYPE_CHECKING:
  from matplotlib.axes import Axes

# Colours of Okabe and Ito, which are safe for the colour-blind, and an olive.
# Markers distinguish the lines in grey; lines beyond these colours are dashed.
_COLORS = (
  *('#0072b2', '#d55e00', '#009e73', '#cc79a7'),
  *('#56b4e9', '#e69f00', '#8c564b', '#999933'),
)
_MARKERS = 'os^Dv<>phX*'
_PLAIN = '#333333'
# Factor between lines of equal memory, whose bars would hide each other.
_APART = 1.02


def _lines(study: Study) -> dict[str, list[Point]]:
  """Points with a finished run, by encoding and falling size; no plain ones."""
  lines: dict[str, list[Point]] = {}
  for point in study.points[1:]:
    if point.scores:
      lines.setdefault(point.encoding, []).append(point)
  return {
    name: sorted(points, key=lambda p: -p.bytes)
    for name, points in lines.items()
  }


def _draw_plain(axes: 'Axes', plain: Point, metric: str) -> None:
  if not plain.scores:
    return
  mean, deviation = plain.spread(metric)
  half = bar(deviation)
  axes.axhspan(mean - half, mean + half, color=_PLAIN, alpha=0.13, linewidth=0)
  axes.axhline(mean, color=_PLAIN, linewidth=1, linestyle='--')
  style = {'color': _PLAIN, 'markersize': 8, 'zorder': 4}
  axes.errorbar(plain.bytes, mean, half, fmt='*', label='plain', **style)


def _draw_memory(axes: 'Axes', study: Study) -> None:
  """The x axis: memory on a log scale, and the ratio to plain tables."""
  from matplotlib.ticker import FixedLocator, NullLocator

  plain = study.points[0].bytes
  ratios = sorted({point.ratio for point in study.points})
  axes.set_xscale('log')
  axes.set_xlabel('memory of the tables')
  axes.xaxis.set_major_locator(FixedLocator([plain / r for r in ratios]))
  axes.xaxis.set_minor_locator(NullLocator())
  axes.xaxis.set_major_formatter(
    lambda x, _: f'{human(x)}\n1/{plain / x:g}' if x < plain else human(x)
  )


def _draw(axes: 'Axes', study: Study, metric: str) -> None:
  _draw_plain(axes, study.points[0], metric)
  lines = _lines(study)
  for number, (name, points) in enumerate(lines.items()):
    spreads = [point.spread(metric) for point in points]
    aside = _APART ** (number - (len(lines) - 1) / 2)
    axes.errorbar(
      [point.bytes * aside for point in points],
      [spread.mean for spread in spreads],
      [bar(spread.deviation) for spread in spreads],
      fmt=_MARKERS[number % len(_MARKERS)],
      linestyle='-' if number < len(_COLORS) else '--',
      color=_COLORS[number % len(_COLORS)],
      elinewidth=1,
      label=name,
    )
  _draw_memory(axes, study)
  axes.set_ylabel(f'{study.split} {METRICS[metric]}')


def picture(study: Study) -> bytes:
  """A PNG, 1,600 pixels wide."""
  mpl = load_matplotlib()
  with mpl.rc_context(STYLE):
    figure = mpl.figure.Figure(figsize=(10, 4.9), dpi=160, layout='constrained')
    for axes, metric in zip(figure.subplots(1, 2), METRICS, strict=True):
      _draw(axes, study, metric)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=4)
    file = io.BytesIO()
    figure.savefig(file, format='png')
  return file.getvalue()
