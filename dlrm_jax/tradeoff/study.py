"""Quality against memory of the tables: the numbers, as a table and as JSON.

A `Point` is an encoding at one size, trained with several seeds. Every number
of it is a mean over seeds with its standard deviation; differences from the
plain tables are taken seed by seed, so that what a seed does to both drops
out.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dlrm_jax import files
from dlrm_jax.report.run_page import environment
from dlrm_jax.text import human
from dlrm_jax.training.sizes import saving, table_sizes
from dlrm_jax.training.state import Task

METRICS = {'auc': 'AUC', 'log_loss': 'log-loss'}
"""What is compared, by its key in results.json."""
_PICTURE, _TABLE, _NUMBERS = 'tradeoff.png', 'tradeoff.md', 'tradeoff.json'


class Size(NamedTuple):
  """Parameters of tables and of the layers of their encodings; their bytes."""

  parameters: int
  bytes: int


class Spread(NamedTuple):
  """Mean over seeds, and standard deviation: nan where there is one seed."""

  mean: float
  deviation: float


class Point(NamedTuple):
  """An encoding at one size.

  Attributes:
    encoding: its name, as it is typed.
    ratio: asked for: parameters of the plain tables / its parameters.
    size: what it has.
    scores: seed -> metrics; only of runs that are done.
  """

  encoding: str
  ratio: float
  size: Size
  scores: Mapping[int, Mapping[str, float]]

  def spread(self, metric: str) -> Spread:
    """A metric over seeds."""
    return _spread([scores[metric] for scores in self.scores.values()])

  def beyond(self, plain: 'Point', metric: str) -> Spread:
    """A metric less that of the plain tables, over the seeds of both."""
    return _spread(
      [
        scores[metric] - plain.scores[seed][metric]
        for seed, scores in self.scores.items()
        if seed in plain.scores
      ]
    )


class Study(NamedTuple):
  """What is compared.

  Attributes:
    data: its name, for people.
    split: that quality is measured on.
    examples: of the split.
    seeds: of the runs of each point.
    points: the plain tables first.
  """

  data: str
  split: str
  examples: int
  seeds: Sequence[int]
  points: Sequence[Point]


def size_of(task: Task) -> Size:
  """Size of the tables of a task, and of the layers of their encodings."""
  tables, parameters = table_sizes(task), saving(task).parameters
  layers = parameters - sum(t.rows * t.dim for t in tables)
  return Size(parameters, sum(t.bytes for t in tables) + 4 * layers)


def seed_names(seeds: Sequence[int]) -> str:
  """Seeds in a sentence.

  >>> seed_names([0, 1, 2])
  'seeds 0, 1, 2'
  """
  return f'seed{"s" * (len(seeds) > 1)} {", ".join(map(str, seeds))}'


def _spread(values: Sequence[float]) -> Spread:
  return Spread(
    statistics.fmean(values) if values else math.nan,
    statistics.stdev(values) if len(values) > 1 else math.nan,
  )


def _shown(spread: Spread, runs: int, sign: str = '') -> str:
  """A spread in a cell; nothing where there is no run."""
  if math.isnan(spread.mean):
    return 'undefined' if runs else ''
  mean = f'{spread.mean:{sign}.4f}'
  if math.isnan(spread.deviation):
    return mean
  return f'{mean} ± {spread.deviation:.4f}'


def _cells(point: Point, plain: Point) -> Iterable[str]:
  yield f'`{point.encoding}`'
  yield f'{point.ratio:g}'
  yield f'{point.size.parameters:,}'
  yield human(point.size.bytes)
  yield f'{plain.size.parameters / point.size.parameters:.2f}'
  for metric in METRICS:
    yield _shown(point.spread(metric), len(point.scores))
    both = len(point.scores.keys() & plain.scores.keys())
    differs = point is not plain
    yield _shown(point.beyond(plain, metric), both, '+') if differs else ''


def markdown(study: Study) -> str:
  """The table, and what to know about it."""
  plain, done = study.points[0], sum(len(p.scores) for p in study.points)
  runs = len(study.points) * len(study.seeds)
  unfinished = '' if done == runs else f' So far {done} of {runs} runs.'
  names = 'encoding', 'ratio asked', 'parameters', 'memory', 'ratio'
  measured = [name for m in METRICS.values() for name in (m, f'{m} less plain')]
  header = [*names, *measured]
  rules = ['---', *['---:'] * (len(header) - 1)]
  rows = [header, rules, *(_cells(p, plain) for p in study.points)]
  return '\n'.join(
    [
      f'Data `{study.data}`, split {study.split} of {study.examples:,} '
      f'examples; mean ± standard deviation over '
      f'{seed_names(study.seeds)}. Differences '
      f'from plain tables are taken seed by seed. Parameters and memory are '
      f'those of all tables and of the layers of their encodings.{unfinished}',
      '',
      *(f'| {" | ".join(row)} |' for row in rows),
      '',
    ]
  )


def _as_json(study: Study) -> dict[str, Any]:
  plain = study.points[0]

  def numbers(point: Point) -> dict[str, Any]:
    spreads = {
      metric: point.spread(metric)._asdict()
      | {'beyond_plain': point.beyond(plain, metric)._asdict()}
      for metric in METRICS
    }
    asked = {'encoding': point.encoding, 'ratio_asked': point.ratio}
    ratio = plain.size.parameters / point.size.parameters
    runs = [{'seed': k} | dict(v) for k, v in point.scores.items()]
    return (
      asked | point.size._asdict() | {'ratio': ratio} | spreads | {'runs': runs}
    )

  return study._asdict() | {
    'environment': environment(),
    'points': [numbers(point) for point in study.points],
  }


def check_writable(folder: Path) -> None:
  """Makes a folder; raises `InputError` where `write` could not write there."""
  with files.writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
  for name in (_PICTURE, _TABLE, _NUMBERS):
    files.check_writable(folder / name, '--workdir')


def write(study: Study, folder: Path) -> None:
  """Writes tradeoff.png, tradeoff.md and tradeoff.json, each as a whole."""
  from dlrm_jax.tradeoff.picture import picture

  files.write_bytes(folder / _PICTURE, picture(study))
  files.write_text(folder / _TABLE, markdown(study))
  files.write_json(folder / _NUMBERS, _as_json(study))
