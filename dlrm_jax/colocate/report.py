"""What company costs, as a page in Markdown, as JSON and as a picture."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dlrm_jax import files
from dlrm_jax.colocate.models import Bytes, Spec
from dlrm_jax.colocate.study import Point, Wanted
from dlrm_jax.report.figures import load_matplotlib
from dlrm_jax.report.run_page import environment
from dlrm_jax.sweep.picture import STYLE
from dlrm_jax.text import human, markdown_table

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_COLORS = '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00'


class Study(NamedTuple):
  """What was measured.

  Attributes:
    wanted: what was asked for.
    bytes: memory of the tables of each model.
    points: what is measured so far, by model.
  """

  wanted: Wanted
  bytes: Mapping[Spec, Bytes]
  points: Mapping[Spec, Sequence[Point]]

  @property
  def by_name(self) -> dict[str, list[Spec]]:
    """The models that have points, by name."""
    found: dict[str, list[Spec]] = {}
    for spec in self.wanted.specs:
      if self.points.get(spec):
        found.setdefault(spec.name, []).append(spec)
    return found

  @property
  def missing(self) -> int:
    """Number of points that are not measured yet."""
    all_of = len(self.wanted.specs) * len(self.wanted.copies)
    return all_of - sum(map(len, self.points.values()))


def cores_text(cores: Sequence[tuple[int, ...]]) -> str:
  """Groups of cores as the flag has them.

  >>> cores_text([(0,), (1, 2)])
  '0,1+2'
  """
  return ','.join('+'.join(map(str, group)) for group in cores)


def _ms(seconds: float) -> str:
  return f'{1e3 * seconds:.3g}'


def _rate_cells(point: Point, groups: int) -> list[str]:
  rate, tail = point.rate, point.tail
  kept = [] if rate is None else [rate, rate * point.engines]
  return [
    point.spec.storage,
    str(point.engines),
    f'{math.ceil(point.engines / groups)}',
    f'{point.capacity:.4g}',
    *(f'{x:.4g}' for x in kept),
    *(
      [f'{tail.rate:.4g}', *map(_ms, (tail.p50, tail.p95, tail.p99))]
      if tail
      else [''] * 4
    ),
  ]


def _time_cells(point: Point, alone: Point) -> list[str]:
  times, before = point.times, alone.times
  return [
    point.spec.storage,
    str(point.engines),
    *(_ms(part.wall) for part in (times.whole, times.lookup, times.layers)),
    *(_ms(part.cpu) for part in (times.whole, times.lookup, times.layers)),
    f'{times.lookup.cpu / before.lookup.cpu:.2f}',
    f'{times.layers.cpu / before.layers.cpu:.2f}',
  ]


def _of_model(study: Study, name: str, specs: Sequence[Spec]) -> Iterator[str]:
  """The section of a model."""
  points = [study.points[spec] for spec in specs]
  sizes = ', '.join(
    f'{spec.storage} {human(study.bytes[spec].kept)}' for spec in specs
  )
  yield f'## {name}'
  yield ''
  yield f'Tables of an engine: {sizes}.'
  yield ''
  header = [
    *('tables', 'engines', 'a core', 'can QPS'),
    *(('keep QPS', 'in all') if study.wanted.rate is None else ()),
    *('at QPS', 'p50 ms', 'p95 ms', 'p99 ms'),
  ]
  groups = len(study.wanted.cores)
  yield from markdown_table(
    header, [_rate_cells(p, groups) for of_spec in points for p in of_spec]
  )
  yield ''
  rows = points[0][0].times.rows
  yield f'A batch of {rows}, ms by the clock, and ms of processors:'
  yield ''
  parts = 'whole', 'lookup', 'layers'
  yield from markdown_table(
    [
      *('tables', 'engines', *parts, *(f'{part}, CPU' for part in parts)),
      *('lookup ×', 'layers ×'),
    ],
    [_time_cells(p, of_spec[0]) for of_spec in points for p in of_spec],
  )
  yield ''


def _about(study: Study) -> Iterator[str]:
  """Lines about what was measured, and how."""
  wanted = study.wanted
  sizes, cores = wanted.sizes.name, cores_text(wanted.cores)
  yield (
    f'Query sizes {sizes}; engines on the cores {cores} in turn; queries cut '
    f'at {wanted.split}; ids with exponent {wanted.exponent:g}; seed '
    f'{wanted.seed}; {wanted.seconds:g} s a measurement.'
  )
  yield ''
  first = wanted.copies[0]
  alone = 'alone' if first == 1 else f'with {first} engines'
  targets = ', '.join(
    f'{name} {_ms(bound)} ms'
    for name, bound in wanted.bounds.items()
    if math.isfinite(bound)
  )
  if targets:
    yield f'Target of p{wanted.percent:g}: {targets}.'
  yield (
    'All engines have the same load. *can*: queries a second of an engine, if '
    'they never wait; *keep*: the highest rate that keeps the target, 0 if an '
    'eighth of *can* does not; *in all*: of all engines. Batches are measured '
    'while the other engines compute without pause; × is the time of '
    f'processors over that {alone}.'
  )
  if study.missing:
    yield ''
    yield f'**{study.missing} points are not measured yet.**'


def sections(study: Study) -> Iterator[str]:
  """The lines of the tables of all models."""
  for name, specs in study.by_name.items():
    yield from _of_model(study, name, specs)


def markdown(study: Study, picture: str) -> str:
  """The page.

  Args:
    study: what was measured.
    picture: name of the file of the picture.
  """
  about = environment()
  lines = [
    '# Models beside each other',
    '',
    *_about(study),
    '',
    f'![Rates, latencies and times of batches]({picture})',
    '',
    *sections(study),
    f'{about["system"]}, jax {about["jax"]}.',
  ]
  return '\n'.join(lines) + '\n'


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


def _json_of(point: Point) -> dict[str, Any]:
  times = point.times
  parts = {k: getattr(times, k) for k in ('whole', 'lookup', 'layers')}
  return {
    'engines': point.engines,
    'capacity_qps': point.capacity,
    'kept_qps': point.rate,
    'latency': point.tail and point.tail._asdict(),
    'batch_rows': times.rows,
    'batch_calls': times.calls,
    'batch_seconds': {k: part._asdict() for k, part in parts.items()},
  }


def as_json(study: Study) -> dict[str, Any]:
  """The study as JSON can hold it; seconds, bytes, queries a second."""
  wanted = study.wanted
  return {
    'sizes': wanted.sizes.name,
    'cores': cores_text(wanted.cores),
    'split': wanted.split,
    'exponent': wanted.exponent,
    'rate': wanted.rate,
    'target_seconds': dict(wanted.bounds),
    'percentile': wanted.percent,
    'seconds': wanted.seconds,
    'seed': wanted.seed,
    'missing': study.missing,
    'environment': environment(),
    'models': [
      {
        'model': spec.name,
        'folder': spec.folder and str(spec.folder),
        'storage': spec.storage,
        'scale': spec.scale,
        'table_bytes': study.bytes[spec].kept,
        'points': list(map(_json_of, study.points[spec])),
      }
      for specs in study.by_name.values()
      for spec in specs
    ],
  }


def write(study: Study, output: Path) -> None:
  """Writes the page, and beside it the picture and the numbers."""
  drawn = output.with_suffix('.svg')
  files.write_bytes(drawn, picture(study))
  files.write_text(output, markdown(study, drawn.name))
  files.write_json(output.with_suffix('.json'), as_json(study))
