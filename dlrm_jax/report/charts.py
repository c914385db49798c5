"""Charts of a report, as inline SVG.

Text stays text, and lines have the text colour of the page, so that one chart
fits a light page, a dark page and paper. Equal numbers give equal bytes.
"""

import io
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from dlrm_jax.metrics import binary
from dlrm_jax.metrics.objective import HIGHER, LABELS, SHOWN, Objective
from dlrm_jax.report.figures import load_matplotlib

if TYPE_CHECKING:
  from matplotlib.axes import Axes

T = TypeVar('T')

INK = '#010203'
"""Placeholder that `chart` replaces by the text colour of the page."""

COLORS = ('#3b82f6', '#f97316', '#10b981', '#a855f7')
"""Colours of the series of a chart, in order."""

_STYLE = {
  'svg.fonttype': 'none',
  'font.family': 'DejaVu Sans',  # part of matplotlib: equal widths everywhere
  'font.size': 8,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.linewidth': 0.6,
  'axes.edgecolor': INK,
  'axes.labelcolor': INK,
  'xtick.color': INK,
  'ytick.color': INK,
  'text.color': INK,
  'text.parse_math': False,
  'axes.grid': True,
  'grid.color': INK,
  'grid.alpha': 0.12,
  'grid.linewidth': 0.6,
  'axes.axisbelow': True,
  'legend.frameon': False,
  'lines.linewidth': 1.5,
}
_BLOCKS = 60
_DOTS = 400

History = Sequence[Mapping[str, Any]]
"""Logged lines of a run: {'step': 100, 'loss': 0.5, ...} each."""


class Series(NamedTuple):
  """A quantity over steps.

  Attributes:
    steps: f64[P], rising.
    values: f64[P].
  """

  steps: np.ndarray
  values: np.ndarray


def series(history: History, key: str) -> Series:
  """The finite values of a key; of two lines of one step the later counts."""
  by_step = {
    row['step']: float(row[key])
    for row in history
    if row.get(key) is not None and math.isfinite(row[key])
  }
  steps = sorted(by_step)
  values = [by_step[step] for step in steps]
  return Series(np.array(steps, float), np.array(values, float))


def chart(
  name: str, label: str, draw: Callable[['Axes'], None], height: float = 2.7
) -> str:
  """The <svg> of a chart.

  Args:
    name: prefix of the ids in the SVG; unique on a page.
    label: description for screen readers.
    draw: draws on the axes.
    height: height of the chart; its width is 4.2.
  """
  mpl = load_matplotlib()
  with mpl.rc_context({**_STYLE, 'svg.hashsalt': name}):
    figure = mpl.figure.Figure(figsize=(4.2, height), layout='constrained')
    draw(figure.add_subplot())
    file = io.StringIO()
    blank = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
    figure.savefig(file, format='svg', transparent=True, metadata=blank)
  svg = file.getvalue()
  body = svg[svg.index('>', svg.index('<svg')) + 1 :].replace(
    INK, 'currentColor'
  )
  body = re.sub(r'(\bid="|url\(#|href="#)', rf'\1{name}-', body)
  (box,) = re.findall(r'<svg[^>]*viewBox="([^"]*)"', svg)
  return (
    f'<svg viewBox="{box}" role="img" aria-label="{label}"'
    ' xmlns="http://www.w3.org/2000/svg"'
    f' xmlns:xlink="http://www.w3.org/1999/xlink">{body.strip()}'
  )


def _step_axis(axes: 'Axes') -> None:
  """Labels the x axis with steps: 0, 10k, 20k ..."""
  from matplotlib.ticker import EngFormatter, MaxNLocator

  axes.set_xlabel('step')
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  axes.xaxis.set_major_formatter(EngFormatter(sep=''))


def _block_means(values: np.ndarray) -> np.ndarray:
  """Means of at most `_BLOCKS` blocks of neighbouring values."""
  blocks = np.array_split(values, min(_BLOCKS, len(values)))
  return np.array([block.mean() for block in blocks])


def _noisy(name: str, label: str, data: Series) -> str:
  """A chart of a noisy quantity: dots, and a line through means of blocks."""
  from matplotlib.ticker import EngFormatter

  def draw(axes: 'Axes') -> None:
    steps, values = data
    axes.plot(_block_means(steps), _block_means(values), color=COLORS[0])
    if len(values) > _BLOCKS:
      thin = np.unique(np.linspace(0, len(values) - 1, _DOTS).astype(int))
      dots = {'color': COLORS[0], 'alpha': 0.5, 'markeredgewidth': 0}
      axes.plot(steps[thin], values[thin], '.', markersize=3, **dots)
    axes.set_ylabel(label)
    if np.max(np.abs(values)) >= 1000:
      axes.yaxis.set_major_formatter(EngFormatter(sep=''))
    _step_axis(axes)

  return chart(name, f'{label} over steps', draw)


def _colored(series: Mapping[str, T]) -> Iterator[tuple[str, tuple[str, T]]]:
  """Pairs each series with a color; colors repeat after the last one."""
  return zip(itertools.cycle(COLORS), series.items(), strict=False)


def _evaluations(
  name: str,
  label: str,
  splits: Mapping[str, Series],
  references: Mapping[str, float],
  best: Callable[[np.ndarray], np.intp],
) -> str:
  """A chart of a metric: best values marked, references as dashed lines."""

  def draw(axes: 'Axes') -> None:
    for color, (split, data) in _colored(splits):
      i = best(data.values)
      step, value = data.steps[i], data.values[i]
      text = f'{split}, best {value:.5f} at step {step:,.0f}'
      axes.plot(*data, '.-', color=color, markersize=4, label=text)
      axes.plot(step, value, 'o', color=color, markersize=7)
    for dash, (reference, value) in zip(
      ('--', ':', '-.'), references.items(), strict=False
    ):
      text = f'{reference} {value:.5f}'
      axes.axhline(value, color=INK, linestyle=dash, linewidth=1, label=text)
    axes.set_ylabel(label)
    axes.legend()
    _step_axis(axes)

  return chart(name, f'{label} over steps', draw)


def _roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
  """A chart of the ROC curves of splits: (false, true positive rates)."""

  def draw(axes: 'Axes') -> None:
    axes.plot([0, 1], [0, 1], '--', color=INK, linewidth=0.8, alpha=0.5)
    for color, (split, curve) in _colored(curves):
      axes.plot(*curve, color=color, label=split)
    axes.set(xlabel='false positive rate', ylabel='true positive rate')
    axes.set(xlim=(0, 1), ylim=(0, 1.005))
    axes.legend(loc='lower right')

  return chart('roc', 'ROC curve', draw)


def _calibration(curves: Mapping[str, binary.Calibration]) -> str:
  """A chart of click rate over mean prediction, with 95 % intervals."""

  def draw(axes: 'Axes') -> None:
    for color, (split, curve) in _colored(curves):
      predicted, rate, count = curve
      spread = 1.96 * np.sqrt(rate * (1 - rate) / count)
      style = {'markersize': 3, 'linewidth': 1, 'elinewidth': 0.8}
      axes.errorbar(
        predicted, rate, spread, fmt='o-', color=color, label=split, **style
      )
    top = 1.05 * max(
      max(c.predicted.max(), c.observed.max()) for c in curves.values()
    )
    axes.plot([0, top], [0, top], '--', color=INK, linewidth=0.8, alpha=0.5)
    axes.set(xlabel='mean prediction', ylabel='click rate')
    axes.set(xlim=(0, top), ylim=(0, top))
    axes.legend(loc='upper left')

  return chart('calibration', 'Calibration', draw)


def training(
  history: History,
  references: Mapping[str, Mapping[str, float]],
  objective: Objective,
) -> dict[str, str]:
  """Charts over steps, by title: loss, metrics by split, speed."""
  drawn = {}
  loss = series(history, 'loss')
  if loss.steps.size:
    drawn['Training loss'] = _noisy('loss', 'training loss', loss)
  keys = sorted({key for row in history for key in row})
  for metric in dict.fromkeys([*SHOWN, objective.metric]):
    label, best = LABELS[metric], np.argmax if HIGHER[metric] else np.argmin
    splits = {
      key.removesuffix(f'/{metric}'): series(history, key)
      for key in keys
      if key.endswith(f'/{metric}')
    }
    splits = {split: data for split, data in splits.items() if data.steps.size}
    levels = {name: r[metric] for name, r in references.items() if metric in r}
    if splits:
      title = f'{label[0].upper()}{label[1:]}' if label.islower() else label
      drawn[f'{title} during training'] = _evaluations(
        metric, label, splits, levels, best
      )
  speed = series(history, 'examples_per_second')
  if speed.steps.size:
    drawn['Speed'] = _noisy('speed', 'examples/s', speed)
  return drawn


def quality(results: Mapping[str, binary.Tally]) -> dict[str, str]:
  """Charts of the finished model, by title: ROC and calibration."""
  drawn = {}
  roc = {split: binary.roc_curve(t) for split, t in results.items()}
  roc = {split: curve for split, curve in roc.items() if curve[0].size}
  if roc:
    drawn['ROC'] = _roc(roc)
  groups = {split: binary.calibration_curve(t) for split, t in results.items()}
  groups = {split: curve for split, curve in groups.items() if curve.count.size}
  if groups:
    drawn['Calibration'] = _calibration(groups)
  return drawn
