"""The picture of a study: rates, latencies and times of batches."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlrm_jax.colocate.study import Point, Study
from dlrm_jax.report.figures import load_matplotlib
from dlrm_jax.sweep.picture import STYLE

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_COLORS = '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00'


def _draw_rates(axes: 'Axes', points: Sequence[Point], color: str) -> None:
  xs = [point.engines for point in points]
  ys = [(point.rate or 0.0) * point.engines for point in points]
  style = {'color': color, 'label': points[0].spec.storage}
  axes.plot(xs, ys, 'o-', **style)


def _draw_tails(axes: 'Axes', points: Sequence[Point], color: str) -> None:
  shown = [point for point in points if point.tail]
  xs = [point.engines for point in shown]
  for marker, name in (('o-', 'p95'), ('v:', 'p50')):
    ys = [1e3 * getattr(point.tail, name) for point in shown]
    axes.plot(xs, ys, marker, color=color, label=points[0].spec.storage)


def _draw_times(axes: 'Axes', points: Sequence[Point], color: str) -> None:
  xs = [point.engines for point in points]
  for marker, name in (('o-', 'lookup'), ('s:', 'layers')):
    times = [getattr(point.times, name).cpu for point in points]
    axes.plot(xs, [t / times[0] for t in times], marker, color=color)


def picture(study: Study) -> bytes:
  """An SVG: a column for each model, its rates, latencies and times."""
  mpl = load_matplotlib()
  names = study.by_name
  kinds = list(dict.fromkeys(spec.storage for spec in study.wanted.specs))
  rows = (
    (_draw_rates, 'queries/s of all engines'),
    (_draw_tails, 'ms: p95 (lines), p50 (dots)'),
    (_draw_times, 'CPU time × alone:\nlookup (lines), layers (dots)'),
  )
  if study.wanted.rate is not None:
    rows = rows[1:]
  with mpl.rc_context({**STYLE, 'svg.hashsalt': 'colocate'}):
    figure = mpl.figure.Figure(
      figsize=(1.2 + 3.1 * max(len(names), 1), 2.6 * len(rows)),
      layout='constrained',
    )
    grid = figure.subplots(len(rows), max(len(names), 1), squeeze=False)
    for column, (name, specs) in enumerate(names.items()):
      for axes, (draw, label) in zip(grid[:, column], rows, strict=True):
        for spec in specs:
          draw(axes, study.points[spec], _COLORS[kinds.index(spec.storage) % 6])
        axes.set_xticks(study.wanted.copies)
        axes.set_xlim(0.5, study.wanted.copies[-1] + 0.5)
        axes.set_ylim(bottom=0)
        if not column:
          axes.set_ylabel(label)
      grid[0, column].set_title(name)
      grid[-1, column].set_xlabel('engines')
    lines = [
      mpl.lines.Line2D([], [], color=_COLORS[i % 6], marker='o', label=kind)
      for i, kind in enumerate(kinds)
    ]
    figure.legend(handles=lines, loc='outside lower center', ncols=len(kinds))
    file = io.BytesIO()
    figure.savefig(file, format='svg', metadata={'Date': None})
  return file.getvalue()
