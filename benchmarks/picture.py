"""A picture of the ratios that `make bench` found.

python -m benchmarks.picture runs/bench.json docs/speed.svg

One bar for each comparison, from 1 on a logarithmic scale: how many times
better than the peer we are. Its colours are read on white and on dark pages.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import ticker
from matplotlib.figure import Figure

_INK, _BETTER, _WORSE, _TARGET = '#7d8590', '#2f81c7', '#d9822b', '#e3b341'


def draw(found: Mapping[str, Any], path: Path) -> None:
  """Draws all rows that have a ratio.

  Args:
    found: what `python -m benchmarks` wrote.
    path: of the picture; its ending says the format.

  Raises:
    SystemExit: no row has a ratio.
  """
  benchmarks = found['benchmarks']
  rows = [row for rows in benchmarks.values() for row in rows]
  rows = [row for row in rows if row.get('ratio') is not None]
  if not rows:
    raise SystemExit('no ratios: nothing was measured beside a peer')
  ratios = [row['ratio'] for row in rows]
  figure = Figure(figsize=(9, 1.3 + 0.27 * len(rows)), layout='constrained')
  axes = figure.add_subplot()
  axes.barh(
    range(len(rows)),
    [ratio - 1 for ratio in ratios],
    left=1,
    height=0.62,
    color=[_BETTER if ratio >= 1 else _WORSE for ratio in ratios],
  )
  targets = {at: r['target'] for at, r in enumerate(rows) if r['target']}
  for at, ratio in enumerate(ratios):
    axes.annotate(
      f'{ratio:.2g}' if ratio < 10 else f'{ratio:.0f}',
      (max(1, ratio, targets.get(at, 1)), at),
      (4, 0),
      textcoords='offset points',
      va='center',
      color=_INK,
      fontsize=8,
    )
  axes.scatter(
    list(targets.values()),
    list(targets),
    s=130,
    c=_TARGET,
    marker='|',
    linewidths=2,
  )
  axes.axvline(1, color=_INK, linewidth=1)
  axes.set_xscale('log')
  shown = [1, *ratios, *targets.values()]
  axes.set_xlim(0.8 * min(shown), 1.3 * max(shown))
  stars = [' *' if row.get('against') else '' for row in rows]
  names = [row['what'] + star for row, star in zip(rows, stars, strict=True)]
  axes.set_yticks(range(len(rows)), names)
  _finish(figure, axes, found['machine'])
  matplotlib.rcParams['svg.hashsalt'] = 'dlrm_jax'
  figure.savefig(path, transparent=True, dpi=150)


def _finish(figure: Figure, axes: Any, machine: Mapping[str, str]) -> None:
  """Scale, colours, and the words around."""
  axes.invert_yaxis()
  axes.margins(y=0.01)
  axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter('{x:g} x')
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.tick_params(colors=_INK, labelsize=8, length=0)
  for side, spine in axes.spines.items():
    spine.set_visible(side == 'bottom')
    spine.set_color(_INK)
  axes.set_title(
    'dlrm_jax beside facebookresearch/dlrm and torchrec + FBGEMM, the faster',
    color=_INK,
    fontsize=10,
  )
  words = 'above 1: we are faster', 'yellow: the target', '*: beside the first'
  about = machine['processor'], machine['date'], f'commit {machine["commit"]}'
  axes.set_xlabel(
    '; '.join(words) + '\n' + ', '.join(about), color=_INK, fontsize=8
  )


def main() -> None:
  """Reads, draws."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('found', type=Path, help='JSON of `make bench`')
  parser.add_argument('picture', type=Path, help='as docs/speed.svg')
  arguments = parser.parse_args()
  if not arguments.found.is_file():
    parser.error(f'{arguments.found}: no such file; `make bench` writes it')
  try:
    found = json.loads(arguments.found.read_text())
  except ValueError as error:
    parser.error(f'{arguments.found}: not JSON: {error}')
  if not isinstance(found, dict) or 'benchmarks' not in found:
    parser.error(f'{arguments.found}: not what `make bench` writes')
  draw(found, arguments.picture)


if __name__ == '__main__':
  main()
