"""What company costs, as a page in Markdown."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from dlrm_jax import files
from dlrm_jax.colocate.models import Spec
from dlrm_jax.colocate.picture import picture
from dlrm_jax.colocate.results import as_json
from dlrm_jax.colocate.study import Point, Study, cores_text
from dlrm_jax.report.run_page import environment
from dlrm_jax.text import human, markdown_table


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


def write(study: Study, output: Path) -> None:
  """Writes the page, and beside it the picture and the numbers."""
  drawn = output.with_suffix('.svg')
  files.write_bytes(drawn, picture(study))
  files.write_text(output, markdown(study, drawn.name))
  files.write_json(output.with_suffix('.json'), as_json(study))
