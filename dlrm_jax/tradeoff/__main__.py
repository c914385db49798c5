r"""Quality against memory: trains encodings at several sizes, and draws both.

  python -m dlrm_jax.tradeoff --config=configs/criteo_kaggle.py:best \
    --config.data.dir=data/kaggle --workdir=runs/tradeoff \
    --encodings=hashed,quotient_remainder:mult,quotient_remainder:path \
    --ratios=4,16,64 --seeds=3

Trains plain tables, and each encoding at each ratio, with each seed. ENCODING
is a value of config.tables.encoding; ENCODING:COMBINE also sets
config.tables.combine. A ratio is a value of config.tables.compression. Seeds
count from config.seed. All other fields of the config hold for all runs and can
be set as for a training; config.tables.features also holds for the plain
tables.

After each run, tradeoff.png, tradeoff.md and tradeoff.json are written in the
workdir. Each run has a folder in WORKDIR/runs, as a training makes it, with its
output in log.txt. The same command again continues; with more encodings, ratios
or seeds it adds their runs.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrm_jax.config import command_line
from dlrm_jax.config.parser import Parser
from dlrm_jax.configs import default
from dlrm_jax.errors import exit_cleanly, status_of
from dlrm_jax.text import human

if TYPE_CHECKING:
  from dlrm_jax.run.description import Run
  from dlrm_jax.sweep.trials import Outcomes
  from dlrm_jax.tradeoff.study import Study

_ENCODINGS = [
  'hashed',
  'quotient_remainder:mult',
  'quotient_remainder:add',
  'quotient_remainder:concat',
  'quotient_remainder:path',
  'chinese_remainder:mult',
  'tensor_train',
  'robe',
  'mixed_dims',
]


def _names(text: str) -> list[str]:
  """The names in a list with commas."""
  return [name.strip() for name in text.split(',')] if text else []


def _parser() -> Parser:
  parser = Parser(prog='python -m dlrm_jax.tradeoff', description=__doc__)
  command_line.add_config(parser)
  parser.add_required('--workdir', 'DIR', 'folder for the runs and the picture')
  add = parser.add_argument
  add(
    '--encodings',
    type=_names,
    default=_ENCODINGS,
    metavar='NAME,NAME,...',
    help='ENCODING or ENCODING:COMBINE; plain is added (default: '
    f'{",".join(_ENCODINGS)})',
  )
  add(
    '--ratios',
    type=_names,
    default=['4', '16', '64'],
    metavar='RATIO,RATIO,...',
    help='how many times fewer parameters than plain tables (default: 4,16,64)',
  )
  add(
    '--seeds',
    type=int,
    default=3,
    help='runs of each encoding and ratio (default: 3)',
  )
  return parser


def _study(outcomes: 'Outcomes') -> 'Study':
  """The study, with the results so far."""
  from dlrm_jax.tradeoff.study import Point, Study, tables_size

  points = []
  for (name, ratio), trials in outcomes.by_point().items():
    parameters, size = tables_size(trials[0].run.task)
    scores = outcomes.scores_of(trials)
    points.append(Point(name, ratio, parameters, size, scores))
  first = outcomes.trials[0].run
  return Study(
    data=first.data_name,
    split=outcomes.split,
    examples=first.data.splits[outcomes.split],
    seeds=sorted({trial.seed for trial in outcomes.trials}),
    points=points,
  )


def _plan(study: 'Study', notes: Sequence[str], run: 'Run') -> Iterator[str]:
  """Lines about the runs, before the first one."""
  from dlrm_jax.sweep.spread import seed_names

  points = study.points
  yield f'data      {study.data}'
  yield f'quality   on split {study.split}, {study.examples:,} examples'
  yield (
    f'runs      {study.runs}: {len(points)} kinds of tables, '
    f'{seed_names(study.seeds)}; {study.done} done'
  )
  yield f'run       {run.steps:,} steps of {run.reading.batch_size:,} examples'
  yield 'memory    of tables and of the layers of their encodings'
  width = max(len(point.encoding) for point in points)
  for point in points:
    times = points[0].parameters / point.parameters
    yield (
      f'          {point.encoding:<{width}} {point.ratio:>6g} '
      f'{point.parameters:>15,} parameters {human(point.bytes):>8}'
      f'  1/{times:.3g}'
    )
  yield from (f'          {note}' for note in notes)


@exit_cleanly
def main(argv: Sequence[str]) -> int:
  """Builds all runs, prints the plan, trains what is not done, draws."""
  from dlrm_jax.build.data import open_data
  from dlrm_jax.metrics.objective import Objective
  from dlrm_jax.program_cache import keep_programs
  from dlrm_jax.sweep.trials import Outcomes, make_folder, train_all
  from dlrm_jax.tradeoff import study
  from dlrm_jax.tradeoff.runs import build_runs, find_split

  known = default.get_config().to_dict()
  flags = command_line.read_flags(_parser(), argv, known)
  if flags.config.train.cache_programs:
    keep_programs()
  folder, data = Path(flags.workdir), open_data(flags.config)
  split = find_split(data)
  trials, notes = build_runs(flags.config, data, folder, vars(flags))
  make_folder(folder, (study.PICTURE, study.TABLE, study.NUMBERS))
  outcomes = Outcomes(trials, split)
  print(*_plan(_study(outcomes), notes, trials[0].run), sep='\n', flush=True)
  stopped_by = train_all(
    outcomes,
    lambda _: [Objective(metric) for metric in study.METRICS],
    lambda: study.write_study(_study(outcomes), folder),
  )
  if stopped_by:
    return status_of(stopped_by)
  print(f'see {folder / study.PICTURE}, .md and .json')
  return 0


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
