"""A picture of the ratios that `make bench` found.

python -m benchmarks.picture docs/benchmarks/*.json docs/speed.svg

One bar for each comparison, from 1 on a logarithmic scale: how many times
better than the one that is named we are. Machines stand side by side. Its
colours are read on white and on dark pages.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib import ticker
from matplotlib.figure import Figure

from benchmarks import targets
from benchmarks.machines import Machine, order, read
from dlrm_jax.errors import InputError, exit_cleanly

_INK, _BETTER, _WORSE, _TARGET = '#7d8590', '#2f81c7', '#d9822b', '#e3b341'


class _Line(NamedTuple):
  """A comparison of what was measured: the first, or one that follows."""

  what: str
  number: int


_Bars = dict[_Line, targets.Comparison]


def _bars(machine: Machine) -> _Bars:
  """Those beside another program, or ours in float32."""
  return {
    _Line(what, i): comparison
    for what, row in machine.rows.items()
    if targets.SHARE not in row
    for i, comparison in enumerate(targets.comparisons(row))
  }


def draw(machines: Sequence[Machine], path: Path) -> None:
  """Draws all comparisons.

  Args:
    machines: what `python -m benchmarks` wrote on each.
    path: of the picture; its ending says the format.

  Raises:
    InputError: there are none.
  """
  found = [_bars(machine) for machine in machines]
  lines = {line for bars in found for line in bars}
  if not lines:
    raise InputError('no ratios: nothing was measured beside a peer')
  place = {what: at for at, what in enumerate(order(machines))}
  ordered = sorted(lines, key=lambda line: (place[line.what], line.number))
  size = 5 + 4 * len(machines), 1.6 + 0.27 * len(ordered)
  figure = Figure(figsize=size, layout='constrained')
  panels = figure.subplots(1, len(machines), sharey=True, squeeze=False)[0]
  shown = [c for bars in found for c in bars.values()]
  ends = [1, *(c.ratio for c in shown), *(c.target or 1 for c in shown)]
  for axes, machine, bars in zip(panels, machines, found, strict=True):
    _draw_bars(axes, machine, bars, ordered)
    _finish(axes, machine)
    axes.set_xlim(0.8 * min(ends), 4 * max(ends))
  names = ['' if line.number else line.what for line in ordered]
  panels[0].set_yticks(range(len(ordered)), names)
  panels[0].invert_yaxis()
  words = (
    *('dlrm_jax beside the one that is named', 'above 1: we are faster'),
    *('yellow: the target', '~: the machine was busy'),
  )
  figure.suptitle('; '.join(words), color=_INK, fontsize=10)
  matplotlib.rcParams['svg.hashsalt'] = 'dlrm_jax'
  figure.savefig(path, transparent=True, dpi=150)


def _draw_bars(
  axes: Any, machine: Machine, bars: _Bars, ordered: Sequence[_Line]
) -> None:
  """Bars, targets, and what each is beside."""
  for at, line in enumerate(ordered):
    if line not in bars:
      continue
    beside, ratio, target = bars[line]
    color = _BETTER if ratio >= 1 else _WORSE
    axes.barh(at, ratio - 1, left=1, height=0.62, color=color)
    text = f'{ratio:.3g} {beside}'
    axes.annotate(
      text + (' ~' if machine.is_busy(line.what) else ''),
      (max(1, ratio, target or 1), at),
      (4, 0),
      textcoords='offset points',
      va='center',
      color=_INK,
      fontsize=8,
    )
    if target is not None:
      axes.scatter(target, at, s=130, c=_TARGET, marker='|', linewidths=2)


def _finish(axes: Any, machine: Machine) -> None:
  """Scale, colours, and the words around."""
  axes.axvline(1, color=_INK, linewidth=1)
  axes.set_xscale('log')
  axes.margins(y=0.01)
  axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter('{x:g} x')
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.tick_params(colors=_INK, labelsize=8, length=0)
  for side, spine in axes.spines.items():
    spine.set_visible(side == 'bottom')
    spine.set_color(_INK)
  about = machine.about
  axes.set_title(machine.name, color=_INK, fontsize=10)
  axes.set_xlabel(
    f'{about["processor"]}\n{about["date"]}, commit {about["commit"]}',
    color=_INK,
    fontsize=8,
  )


@exit_cleanly
def main(argv: Sequence[str]) -> int:
  """Reads, draws."""
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.picture',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('found', nargs='+', type=Path, metavar='FILE.JSON')
  parser.add_argument('picture', type=Path, help='as docs/speed.svg')
  flags = parser.parse_args(argv)
  draw([read(path) for path in flags.found], flags.picture)
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
