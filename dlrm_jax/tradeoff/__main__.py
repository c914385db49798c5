"""Quality against memory: trains encodings at several sizes, draws the price.

  python -m dlrm_jax.tradeoff --config=configs/criteo_kaggle.py:best \
    --config.data.dir=data/kaggle --workdir=runs/tradeoff \
    --encodings=hashed,quotient_remainder:mult,quotient_remainder:path \
    --ratios=4,16,64 --seeds=3

Trains one run for each encoding, ratio and seed, and the plain tables, which
all others are measured by. ENCODING is a word of config.tables.encoding;
ENCODING:COMBINE sets config.tables.combine, too. A ratio is
config.tables.compression; seeds count from config.seed. All other fields are
those of the config, and can be set as for train.py; what
config.tables.features says of a feature holds in all runs, the plain ones
included.

After every run it writes tradeoff.png, tradeoff.md and tradeoff.json in the
workdir. Each run has a folder in WORKDIR/runs, as train.py would make it, and
what train.py would print is in log.txt there. The same command again goes on;
with more encodings, ratios or seeds it adds those.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from dlrm_jax import files
from dlrm_jax.config import command_line
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError, exit_cleanly, status_of

if TYPE_CHECKING:
  from dlrm_jax.cluster.signals import Signals
  from dlrm_jax.run.description import Run
  from dlrm_jax.tradeoff.runs import Job
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


Scores = dict[str, float]
"""Metrics of a run on the split that quality is measured on."""


def _define_flags() -> None:
  config_flags.DEFINE_config_file(
    'config', None, 'File of configs/: FILE.py, or FILE.py:VARIANT.'
  )
  flags.DEFINE_string('workdir', None, 'Folder for the runs and the picture.')
  flags.DEFINE_list(
    'encodings', _ENCODINGS, 'ENCODING or ENCODING:COMBINE; plain is added.'
  )
  flags.DEFINE_list(
    'ratios', ['4', '16', '64'], 'Times fewer parameters than plain tables.'
  )
  flags.DEFINE_integer('seeds', 3, 'Runs of each encoding and ratio.')


def _defaults() -> dict[str, Any]:
  return default.get_config().to_dict()


@contextlib.contextmanager
def _claimed(job: 'Job') -> Iterator[None]:
  """Within it the folder of a run is ours."""
  from dlrm_jax.build.data import identity
  from dlrm_jax.run import workdir

  run = job.run
  claim = workdir.Claim(run.config, identity(run.data), run.steps, _defaults())
  with workdir.claimed(run.workdir, claim):
    yield


def _result(job: 'Job', split: str) -> Scores | None:
  """What a run has reached, None where it is not finished.

  A file of results that is damaged is none: who goes on makes it anew.

  Raises:
    InputError: another config made its folder.
  """
  from dlrm_jax.run import workdir

  if not workdir.started(job.run.workdir):
    return None
  with _claimed(job), contextlib.suppress(OSError, ValueError):
    found = files.read_json(job.run.workdir / workdir.RESULTS)
    return _scores(found, split)
  return None


def _scores(found: Any, split: str) -> Scores:
  """The metrics of a split from results.json.

  Raises:
    ValueError: they are not there.
  """
  try:
    scores = dict(found['splits'][split])
  except (LookupError, TypeError) as error:
    raise ValueError(f'no metrics of split {split}') from error
  if not all(isinstance(v, int | float | None) for v in scores.values()):
    raise ValueError('a metric is no number')
  return {k: math.nan if v is None else v for k, v in scores.items()}


def _train(job: 'Job', signals: 'Signals') -> int:
  """Trains, or goes on; the number of the signal that stopped it, or 0."""
  import jax

  from dlrm_jax import sharding
  from dlrm_jax.run import loop, room, summary

  with contextlib.ExitStack() as stack:
    enter = stack.enter_context
    enter(sharding.use(loop.choose_mesh(job.run)))
    room.check_room(job.run)
    enter(_claimed(job))
    log = enter((job.run.workdir / 'log.txt').open('a', buffering=1))
    enter(contextlib.redirect_stdout(log))
    print(*summary.lines(job.run), sep='\n')
    try:
      stopped_by = loop.train(job.run, signals)
    except InputError as error:
      raise InputError(f'{job.variant}, seed {job.seed}: {error}') from None
  jax.clear_caches()  # else the programs of all runs stay in memory
  return stopped_by


def _study(
  jobs: Sequence['Job'], results: Mapping[Path, Scores], split: str
) -> 'Study':
  """What has been found so far."""
  from dlrm_jax.tradeoff.study import Point, Study, size_of

  run = jobs[0].run
  return Study(
    data=run.data_name,
    split=split,
    examples=run.data.splits[split],
    seeds=sorted({job.seed for job in jobs}),
    points=[
      Point(
        *variant,
        size_of(next(j.run.task for j in jobs if j.variant == variant)),
        {
          job.seed: results[job.run.workdir]
          for job in jobs
          if job.variant == variant and job.run.workdir in results
        },
      )
      for variant in dict.fromkeys(job.variant for job in jobs)
    ],
  )


def _plan(study: 'Study', notes: Sequence[str], run: 'Run') -> Iterator[str]:
  """What is going to be done, line by line."""
  from dlrm_jax.text import human
  from dlrm_jax.tradeoff.study import seed_names

  points = study.points
  runs = len(points) * len(study.seeds)
  done = sum(len(point.scores) for point in points)
  yield f'data      {study.data}'
  yield f'quality   on split {study.split}, {study.examples:,} examples'
  yield (
    f'runs      {runs}: {len(points)} kinds of tables, '
    f'{seed_names(study.seeds)}; {done} done'
  )
  yield f'run       {run.steps:,} steps of {run.reading.batch_size:,} examples'
  yield 'memory    of tables and of the layers of their encodings'
  width = max(len(point.encoding) for point in points)
  for point in points:
    times = points[0].size.parameters / point.size.parameters
    yield (
      f'          {point.encoding:<{width}} {point.ratio:>6g} '
      f'{point.size.parameters:>15,} parameters {human(point.size.bytes):>8}'
      f'  1/{times:.3g}'
    )
  yield from (f'          {note}' for note in notes)


def _duration(seconds: float) -> str:
  """Seconds, minutes or hours.

  >>> _duration(754)
  '13 min'
  """
  if seconds < 100:
    return f'{seconds:.0f} s'
  minutes = seconds / 60
  return f'{minutes:.0f} min' if minutes < 100 else f'{minutes / 60:.1f} h'


def _left(seconds: Sequence[float], runs: int) -> str:
  """How long the runs that are left will take, from those that were made."""
  if not runs:
    return 'all done'
  return f'{_duration(sum(seconds) / len(seconds) * runs)} left for {runs}'


@exit_cleanly
def main(argv: Sequence[str]) -> int:
  """Builds all runs, prints the plan, trains what is not done, draws."""
  from dlrm_jax.build.data import open_data
  from dlrm_jax.cluster.signals import Signals
  from dlrm_jax.run.scores import with_error
  from dlrm_jax.tradeoff import study as tradeoff
  from dlrm_jax.tradeoff.runs import build_jobs, find_split

  del argv
  given = flags.FLAGS.flag_values_dict()
  folder, data = Path(given['workdir']), open_data(given['config'])
  split = find_split(data)
  jobs, notes = build_jobs(given['config'], data, folder, given)
  tradeoff.check_writable(folder)
  results = {j.run.workdir: s for j in jobs if (s := _result(j, split))}
  study = _study(jobs, results, split)
  print(*_plan(study, notes, jobs[0].run), sep='\n', flush=True)
  waiting = [job for job in jobs if job.run.workdir not in results]
  seconds: list[float] = []
  for job in waiting:
    number, start = len(results) + 1, time.monotonic()
    print(f'{number}/{len(jobs)}  {job.variant}, seed {job.seed}', flush=True)
    with Signals() as signals:
      stopped_by = _train(job, signals)
    if stopped_by:
      print('stopped; the same command goes on from there')
      return status_of(stopped_by)
    scores = results[job.run.workdir] = _result(job, split) or {}
    tradeoff.write(_study(jobs, results, split), folder)
    seconds.append(time.monotonic() - start)
    print(
      f'      {split} AUC {with_error(scores, "auc")}, log-loss '
      f'{with_error(scores, "log_loss")}; took {_duration(seconds[-1])}, '
      f'{_left(seconds, len(jobs) - len(results))}',
      flush=True,
    )
  if not waiting:
    tradeoff.write(study, folder)
  print(f'see {folder / "tradeoff.png"}, .md and .json')
  return 0


def run() -> None:
  """The command."""
  needed = {'config': 'FILE', 'workdir': 'DIR'}
  command_line.run(main, _define_flags, needed, _defaults())


if __name__ == '__main__':
  run()
