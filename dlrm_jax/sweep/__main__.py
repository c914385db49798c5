r"""Trains settings of a grid, ranks them by validation, and draws them.

  python -m dlrm_jax.sweep --config=configs/frappe.py \
    --config.data.dir=data/frappe --workdir=runs/sweep --seeds=3 \
    --grid='optimizer.learning_rate=[1e-3,3e-3] model.dim=[8,16]'

Trains each combination of the values with each seed. A value is written as in
--config.FIELD=VALUE: a number, a word, or a tuple such as (400,400). Seeds
count from config.seed. Without --grid only the seeds differ.

The settings are ranked by the mean over seeds of config.train.objective on
split validation. After each run, sweep.png, sweep.md and sweep.json are written
in the workdir. Each run has a folder in WORKDIR/runs, as a training makes it,
with its output in log.txt. A run that fails is told, and its settings come
last. The same command again continues, and tries failed runs again; with more
values or seeds it adds their runs.
"""

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrm_jax.config import command_line
from dlrm_jax.config.parser import Parser
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError, exit_cleanly, status_of

if TYPE_CHECKING:
  from ml_collections import ConfigDict

  from dlrm_jax.data.schema import Data
  from dlrm_jax.sweep.grid import Axis, Point
  from dlrm_jax.sweep.trials import Outcomes, Trial


def _parser() -> Parser:
  parser = Parser(prog='python -m dlrm_jax.sweep', description=__doc__)
  command_line.add_config(parser)
  parser.add_required('--workdir', 'DIR', 'folder for the runs and the picture')
  parser.add_argument(
    '--grid',
    default='',
    metavar="'FIELD=[VALUE,...] ...'",
    help='fields of the config and their values',
  )
  parser.add_argument(
    '--seeds', type=int, default=1, help='runs of each point (default: 1)'
  )
  return parser


def _build(
  points: Mapping['Point', 'ConfigDict'], folder: Path, seeds: int
) -> list['Trial']:
  """Builds all runs, those of the first seed first; trains nothing.

  Raises:
    InputError: the settings of a point are impossible, or its data has no
      split to rank by.
  """
  from dlrm_jax.build.data import open_data
  from dlrm_jax.build.run import build_run
  from dlrm_jax.sweep.ranking import SPLIT
  from dlrm_jax.sweep.trials import Trial

  opened: dict[str, Data] = {}
  trials = []
  for point, config in points.items():
    try:
      key = config.data.to_json()
      data = opened[key] = opened.get(key) or open_data(config)
      if not data.splits.get(SPLIT):
        raise InputError(
          f'the data has no split {SPLIT} to rank by; it has '
          f'{", ".join(data.splits)}'
        )
      for seed in range(config.seed, config.seed + seeds):
        name = f'{point.folder},seed={seed}'.removeprefix(',')
        own = config.copy_and_resolve_references()
        own.seed = seed
        run = build_run(
          own, data, folder / 'runs' / name, default.get_config().to_dict()
        )
        trials.append(Trial(point, seed, run))
    except InputError as error:
      if not point.settings:
        raise
      raise InputError(f'--grid, {point}: {error}') from None
  return sorted(trials, key=lambda trial: trial.seed)


def _plan(
  outcomes: 'Outcomes', axes: Sequence['Axis'], notes: Sequence[str]
) -> Iterator[str]:
  """Lines about the runs, before the first one."""
  from dlrm_jax.sweep.ranking import SPLIT
  from dlrm_jax.sweep.spread import seed_names

  trials = outcomes.trials
  seeds = sorted({trial.seed for trial in trials})
  steps = sorted({trial.run.steps for trial in trials})
  yield f'data      {trials[0].run.data_name}'
  yield f'ranked    by {SPLIT} {trials[0].run.objective.label}'
  yield (
    f'runs      {len(trials)}: {len(trials) // len(seeds)} settings, '
    f'{seed_names(seeds)}; {len(outcomes.scores)} done'
  )
  for axis in axes:
    yield f'          {axis.field}: {", ".join(axis.texts)}'
  most = f' to {steps[-1]:,}' if len(steps) > 1 else ''
  yield f'run       {steps[0]:,}{most} steps'
  yield from (f'note      {note}' for note in notes)


@exit_cleanly
def main(argv: Sequence[str]) -> int:
  """Builds all runs, prints the plan, trains what is not done, ranks."""
  from dlrm_jax.program_cache import keep_programs
  from dlrm_jax.sweep import ranking
  from dlrm_jax.sweep.grid import build_points, read_grid
  from dlrm_jax.sweep.trials import Outcomes, make_folder, train_all

  known: dict[str, Any] = default.get_config().to_dict()
  flags = command_line.read_flags(_parser(), argv, known)
  if flags.config.train.cache_programs:
    keep_programs()
  if flags.seeds < 1:
    raise InputError(f'--seeds={flags.seeds}: expected 1 or more')
  axes, folder = read_grid(flags.grid), Path(flags.workdir)
  points, notes = build_points(flags.config, axes, known)
  outcomes = Outcomes(_build(points, folder, flags.seeds), ranking.SPLIT)
  make_folder(folder, (ranking.PICTURE, ranking.TABLE, ranking.NUMBERS))
  print(*_plan(outcomes, axes, notes), sep='\n', flush=True)

  def report() -> None:
    ranking.write_sweep(ranking.rank(outcomes, flags.config_name), folder)

  objective = outcomes.trials[0].run.objective
  shown = functools.partial(ranking.shown_metrics, objective)
  stopped_by = train_all(outcomes, shown, report)
  if stopped_by:
    return status_of(stopped_by)
  print(*ranking.table(ranking.rank(outcomes, flags.config_name)), sep='\n')
  failed = len(outcomes.failures)
  if failed:
    print(f'{failed} of {len(outcomes.trials)} runs failed, see above')
  print(f'see {folder / ranking.PICTURE}, .md and .json')
  return 0


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
