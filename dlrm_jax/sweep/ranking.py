"""The ranking of a sweep: as a table and as JSON.

Points are ranked by the mean of the validation objective over seeds. Points
with a run that failed come last, whatever their other runs reach.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dlrm_jax import files
from dlrm_jax.metrics.objective import RANKED, SHOWN, Objective
from dlrm_jax.report.run_page import environment
from dlrm_jax.run.description import Run
from dlrm_jax.run.history import read_history
from dlrm_jax.sweep.grid import Point
from dlrm_jax.sweep.spread import SeedSpread, seed_names, spread
from dlrm_jax.sweep.trials import Outcomes, SplitScores, Trial
from dlrm_jax.text import markdown_table
from dlrm_jax.training.sizes import table_sizes
from dlrm_jax.training.state import abstract_state

SPLIT = 'validation'
"""The split that ranks."""
PICTURE, TABLE, NUMBERS = 'sweep.png', 'sweep.md', 'sweep.json'


class Ranked(NamedTuple):
  """A point of a sweep and what its runs reached.

  Attributes:
    point: the settings.
    parameters: number of parameters of tables and layers.
    scores: validation metrics of the finished runs, by seed.
    failures: why other runs failed, by seed.
    epoch_seconds: time of an epoch's training steps, without evaluation; nan
      where no run is finished.
  """

  point: Point
  parameters: int
  scores: Mapping[int, SplitScores]
  failures: Mapping[int, str]
  epoch_seconds: float

  def spread(self, metric: str) -> SeedSpread:
    """Mean and deviation of a metric over seeds; nan where it is unknown."""
    return spread([s.get(metric, math.nan) for s in self.scores.values()])


class Sweep(NamedTuple):
  """A sweep, as far as its runs are done.

  Attributes:
    config: name of the config.
    data: name of the data.
    objective: the metric that ranks.
    seeds: seeds of each point.
    points: the points, the best first.
  """

  config: str
  data: str
  objective: Objective
  seeds: Sequence[int]
  points: Sequence[Ranked]

  @property
  def metrics(self) -> list[Objective]:
    """The metrics to show: the objective, and those that a run has."""
    runs = [scores for point in self.points for scores in point.scores.values()]
    known = {k: 0 for run in runs for k, x in run.items() if math.isfinite(x)}
    return shown_metrics(self.objective, known)


def shown_metrics(
  objective: Objective, known: Iterable[str]
) -> list[Objective]:
  """The objective, and those known metrics of all heads that are of its kind.

  >>> [m.name for m in shown_metrics(Objective('auc'), ['ne', 'log_loss'])]
  ['auc', 'log_loss']
  """
  kind = RANKED if objective.metric in RANKED else SHOWN
  others = (Objective(name) for name in known)
  shown = [other for other in others if other.metric in kind]
  return [objective, *(m for m in shown if m.name != objective.name)]


def _parameters(run: Run) -> int:
  """Number of parameters of tables and layers."""
  layers = jax.tree.leaves(abstract_state(run.task).params)
  tables = sum(t.rows * t.dim for t in table_sizes(run.task))
  return tables + sum(math.prod(x.shape) for x in layers)


def _epoch_seconds(run: Run) -> list[float]:
  """Time of an epoch at the median speed that the log of a run has.

  Examples of an epoch include negatives that are drawn, as those of the log do.
  """
  key = 'examples_per_second'
  speeds = [row[key] for row in read_history(run.workdir) if key in row]
  if not speeds:
    return []
  examples = run.steps_per_epoch * run.reading.batch_size
  return [examples / statistics.median(speeds)]


def _ranked(point: Point, trials: Sequence[Trial], known: Outcomes) -> Ranked:
  done = [t for t in trials if t.run.workdir in known.scores]
  seconds = [x for trial in done for x in _epoch_seconds(trial.run)]
  return Ranked(
    point,
    _parameters(trials[0].run),
    known.scores_of(trials),
    {
      trial.seed: known.failures[trial.run.workdir]
      for trial in trials
      if trial.run.workdir in known.failures
    },
    statistics.median(seconds) if seconds else math.nan,
  )


def in_order(points: Iterable[Ranked], objective: Objective) -> list[Ranked]:
  """Points by the mean of the objective, the best first.

  Those without a mean come after the others, those with failed runs last.
  """

  def place(ranked: Ranked) -> tuple[bool, bool, float]:
    mean = ranked.spread(objective.name).mean
    undefined = math.isnan(mean)
    gain = 0.0 if undefined else objective.gain(mean)
    return bool(ranked.failures), undefined, -gain

  return sorted(points, key=place)


def rank(outcomes: Outcomes, config: str) -> Sweep:
  """Ranks the points of trials by what they have reached so far.

  Args:
    outcomes: what is known of the trials.
    config: name of their config.
  """
  first = outcomes.trials[0].run
  points = (_ranked(p, t, outcomes) for p, t in outcomes.by_point().items())
  return Sweep(
    config,
    first.data_name,
    first.objective,
    sorted({trial.seed for trial in outcomes.trials}),
    in_order(points, first.objective),
  )


def _cells(sweep: Sweep, place: int, ranked: Ranked) -> Iterator[str]:
  yield from (f'`{text}`' for text in ranked.point.named.values())
  yield str(place)
  failed = f', {len(ranked.failures)} failed' if ranked.failures else ''
  yield f'{len(ranked.scores)} of {len(sweep.seeds)}{failed}'
  for metric in sweep.metrics:
    yield ranked.spread(metric.name).text(digits=5) if ranked.scores else ''
  yield f'{ranked.parameters:,}'
  seconds = ranked.epoch_seconds
  yield '' if math.isnan(seconds) else f'{seconds:.2f}'


def table(sweep: Sweep) -> list[str]:
  """The lines of the table of all points, the best first."""
  fields = list(sweep.points[0].point.named)
  measured = (f'{SPLIT} {metric.label}' for metric in sweep.metrics)
  return markdown_table(
    [*fields, 'rank', 'runs', *measured, 'parameters', 's an epoch'],
    [list(_cells(sweep, k, p)) for k, p in enumerate(sweep.points, 1)],
    words=len(fields),
  )


def markdown(sweep: Sweep) -> str:
  """The table with a line about it."""
  return '\n'.join(
    [
      f'Config `{sweep.config}`, data `{sweep.data}`; ranked by the mean of '
      f'{SPLIT} {sweep.objective.label} over {seed_names(sweep.seeds)}, ± '
      f'standard deviation. An epoch is timed without its evaluation.',
      '',
      *table(sweep),
      '',
    ]
  )


def as_json(sweep: Sweep) -> dict[str, Any]:
  """All numbers of a sweep."""

  def numbers(ranked: Ranked) -> dict[str, Any]:
    return {
      'settings': dict(ranked.point.settings),
      'parameters': ranked.parameters,
      'epoch_seconds': ranked.epoch_seconds,
      'metrics': {
        m.name: ranked.spread(m.name)._asdict() for m in sweep.metrics
      },
      'runs': [{'seed': k} | dict(v) for k, v in ranked.scores.items()],
      'failures': [{'seed': k, 'why': v} for k, v in ranked.failures.items()],
    }

  return {
    'config': sweep.config,
    'data': sweep.data,
    'objective': sweep.objective.name,
    'seeds': sweep.seeds,
    'environment': environment(),
    'points': [numbers(ranked) for ranked in sweep.points],
  }


def write_sweep(sweep: Sweep, folder: Path) -> None:
  """Writes sweep.png, sweep.md and sweep.json."""
  from dlrm_jax.sweep.picture import picture

  files.write_bytes(folder / PICTURE, picture(sweep))
  files.write_text(folder / TABLE, markdown(sweep))
  files.write_json(folder / NUMBERS, as_json(sweep))
