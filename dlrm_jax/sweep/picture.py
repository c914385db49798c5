"""The picture of a sweep: the objective against each field of the grid.

A dot is a run; a cross at the lower edge stands for runs that failed. The line
joins the best mean over seeds that each value of the field reaches, with one
standard deviation.
"""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlrm_jax.report.figures import load_matplotlib
from dlrm_jax.sweep.grid import value_text
from dlrm_jax.sweep.ranking import SPLIT, Ranked, Sweep

if TYPE_CHECKING:
  from matplotlib.axes import Axes

STYLE = {
  'font.family': 'DejaVu Sans',  # Comes with matplotlib.
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
"""The style of pictures of comparisons."""

_BLUE, _GREY, _RED = '#0072b2', '#999999', '#d55e00'
_PANELS = 3  # most panels side by side


def bar(deviation: float) -> float:
  """Half the length of a bar; 0 for a single seed."""
  return 0.0 if math.isnan(deviation) else deviation


def _values(sweep: Sweep, place: int) -> list[Any]:
  """The values of a field: numbers in their order, then words."""

  def order(value: Any) -> tuple[float, str]:
    number = isinstance(value, int | float)
    return (float(value) if number else math.inf), str(value)

  values = {ranked.point.settings[place][1] for ranked in sweep.points}
  return sorted(values, key=order)


def _draw(
  axes: 'Axes', sweep: Sweep, values: Sequence[Any], place: int
) -> None:
  """Draws the panel of one field, with its values side by side."""
  metric = sweep.objective.name
  best: dict[int, Ranked] = {}
  for ranked in sweep.points:
    x = values.index(ranked.point.settings[place][1]) if values else 0
    ys = [s.get(metric, math.nan) for s in ranked.scores.values()]
    axes.plot([x] * len(ys), ys, 'o', color=_GREY, markersize=3.5)
    if ranked.failures:  # at the lower edge
      edge = axes.get_xaxis_transform()
      axes.plot([x], [0.03], 'x', color=_RED, transform=edge)
    if ys and not math.isnan(ranked.spread(metric).mean):
      best.setdefault(x, ranked)  # the points are ranked
  spreads = [best[x].spread(metric) for x in sorted(best)]
  axes.errorbar(
    sorted(best),
    [spread.mean for spread in spreads],
    [bar(spread.deviation) for spread in spreads],
    fmt='s-',
    color=_BLUE,
    elinewidth=1,
  )
  axes.set_xticks(range(len(values)), [value_text(v) for v in values])
  axes.set_xlim(-0.5, max(len(values), 1) - 0.5)


def picture(sweep: Sweep) -> bytes:
  """A PNG, a panel for each field; one panel where there is no field."""
  mpl = load_matplotlib()
  fields = list(sweep.points[0].point.named)
  panels = max(1, len(fields))
  columns = min(panels, _PANELS)
  rows = math.ceil(panels / columns)
  with mpl.rc_context(STYLE):
    figure = mpl.figure.Figure(
      figsize=(1 + 4 * columns, 4 * rows), dpi=160, layout='constrained'
    )
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
      if place >= panels:
        axes.remove()
        continue
      if fields:
        axes.set_xlabel(fields[place])
      _draw(axes, sweep, _values(sweep, place) if fields else [], place)
      if place % columns == 0:
        axes.set_ylabel(f'{SPLIT} {sweep.objective.label}')
    file = io.BytesIO()
    figure.savefig(file, format='png')
  return file.getvalue()
