"""Quality against memory of the tables: the numbers, as a table and as JSON.

A `Point` is an encoding at one size. Metrics are means over seeds with standard
deviations. Differences from plain tables are taken seed by seed, so that the
effect of a seed on both cancels.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dlrm_jax import files
from dlrm_jax.report.run_page import environment
from dlrm_jax.sweep.spread import SeedSpread, seed_names, spread
from dlrm_jax.text import human, markdown_table
from dlrm_jax.training.sizes import saving, table_sizes
from dlrm_jax.training.state import Task

METRICS = {'auc': 'AUC', 'log_loss': 'log-loss'}
"""Metrics to compare: key in results.json -> name."""
PICTURE, TABLE, NUMBERS = 'tradeoff.png', 'tradeoff.md', 'tradeoff.json'


class Point(NamedTuple):
  """An encoding at one size.

  Attributes:
    encoding: name of the encoding, as in --encodings.
    ratio: ratio asked for, as in --ratios.
    parameters: number of parameters of the tables and of the layers of their
      encodings.
    bytes: bytes of these parameters.
    scores: metrics of the finished runs, by seed.
  """

  encoding: str
  ratio: float
  parameters: int
  bytes: int
  scores: Mapping[int, Mapping[str, float]]

  def spread(self, metric: str) -> SeedSpread:
    """Mean and deviation of a metric over seeds."""
    return spread([scores[metric] for scores in self.scores.values()])

  def beyond(self, plain: 'Point', metric: str) -> SeedSpread:
    """Difference of a metric from plain tables, over the seeds of both."""
    return spread(
      [
        scores[metric] - plain.scores[seed][metric]
        for seed, scores in self.scores.items()
        if seed in plain.scores
      ]
    )


class Study(NamedTuple):
  """A comparison of encodings.

  Attributes:
    data: name of the data.
    split: split on which quality is measured.
    examples: number of examples of the split.
    seeds: seeds of the runs of each point.
    points: the points; the first has plain tables.
  """

  data: str
  split: str
  examples: int
  seeds: Sequence[int]
  points: Sequence[Point]

  @property
  def runs(self) -> int:
    """Number of all runs."""
    return len(self.points) * len(self.seeds)

  @property
  def done(self) -> int:
    """Number of finished runs."""
    return sum(len(point.scores) for point in self.points)


def tables_size(task: Task) -> tuple[int, int]:
  """Parameters and bytes of tables and of the layers of their encodings."""
  tables, parameters = table_sizes(task), saving(task).parameters
  layers = parameters - sum(t.rows * t.dim for t in tables)
  return parameters, sum(t.bytes for t in tables) + 4 * layers


def _shown(of_seeds: SeedSpread, runs: int, sign: str = '') -> str:
  """A spread as the text of a cell; empty where there is no run."""
  return of_seeds.text(sign) if runs else ''


def _cells(point: Point, plain: Point) -> Iterable[str]:
  yield f'`{point.encoding}`'
  yield f'{point.ratio:g}'
  yield f'{point.parameters:,}'
  yield human(point.bytes)
  yield f'{plain.parameters / point.parameters:.2f}'
  for metric in METRICS:
    yield _shown(point.spread(metric), len(point.scores))
    both = len(point.scores.keys() & plain.scores.keys())
    differs = point is not plain
    yield _shown(point.beyond(plain, metric), both, '+') if differs else ''


def markdown(study: Study) -> str:
  """The table of all points, with a line about it."""
  unfinished = f' So far {study.done} of {study.runs} runs.'
  names = 'encoding', 'ratio asked', 'parameters', 'memory', 'ratio'
  measured = [name for m in METRICS.values() for name in (m, f'{m} less plain')]
  header = [*names, *measured]
  rows = [list(_cells(point, study.points[0])) for point in study.points]
  return '\n'.join(
    [
      f'Data `{study.data}`, split {study.split} of {study.examples:,} '
      f'examples; mean ± standard deviation over {seed_names(study.seeds)}. '
      'Differences from plain tables are taken seed by seed. Parameters and '
      'memory are those of all tables and of the layers of their encodings.'
      f'{"" if study.done == study.runs else unfinished}',
      '',
      *markdown_table(header, rows),
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
    return {
      'encoding': point.encoding,
      'ratio_asked': point.ratio,
      'parameters': point.parameters,
      'bytes': point.bytes,
      'ratio': plain.parameters / point.parameters,
      **spreads,
      'runs': [{'seed': k} | dict(v) for k, v in point.scores.items()],
    }

  return study._asdict() | {
    'environment': environment(),
    'points': [numbers(point) for point in study.points],
  }


def write_study(study: Study, folder: Path) -> None:
  """Writes tradeoff.png, tradeoff.md and tradeoff.json."""
  from dlrm_jax.tradeoff.picture import picture

  files.write_bytes(folder / PICTURE, picture(study))
  files.write_text(folder / TABLE, markdown(study))
  files.write_json(folder / NUMBERS, _as_json(study))
