"""Trains a recommender, or continues a run.

  python train.py --config=configs/synthetic.py --workdir=runs/first

Any field of the config can be set: `--config.train.batch_size=2048`. The same
command continues the run; `python -m dlrm_jax.evaluate --workdir=DIR` scores
it. In a job of many hosts each host runs this command, with --distributed in a
cluster that JAX knows, else with --coordinator=HOST:PORT --processes=N
--process=K.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from dlrm_jax import heap
from dlrm_jax.callable_module import make_callable, path_of, shown
from dlrm_jax.cluster import job
from dlrm_jax.config import command_line, config_file
from dlrm_jax.config.parser import Parser, train_command
from dlrm_jax.configs import default
from dlrm_jax.errors import (
  Ended,
  InputError,
  end_at_once,
  exit_cleanly,
  status_of,
)

if TYPE_CHECKING:
  from dlrm_jax.report.live import Curves
  from dlrm_jax.run.description import Run


def _parser() -> Parser:
  parser = Parser(prog=train_command(), description=__doc__)
  command_line.add_config(parser)
  parser.add_required(
    '--workdir', 'DIR', 'folder for checkpoints, logs and the report'
  )
  parser.add_argument(
    '--profile',
    type=int,
    metavar='STEPS',
    help='trace this many steps and time their parts; no run is changed',
  )
  job.add_arguments(parser)
  return parser


def _defaults() -> dict[str, Any]:
  return default.get_config().to_dict()


def _curves(run: 'Run') -> 'Curves':
  """Curves of a run in the notebook that this is."""
  from dlrm_jax.report.live import Curves
  from dlrm_jax.run.scores import named

  references = named('validation', run.references('validation'))
  # The lines of one label would be wrong for another one.
  (found,) = references.values() if len(references) == 1 else ({},)
  return Curves(found, run.objective)


def _train(
  config: ConfigDict,
  folder: Path,
  notes: Sequence[str],
  profile: int | None = None,
  raises: bool = False,
  live: bool = False,
) -> int | None:
  """Builds a run and trains it.

  Args:
    config: all settings.
    folder: the workdir.
    notes: lines to print about the config.
    profile: steps to trace instead; None: train.
    raises: whether signals raise `Ended` or end this process.
    live: whether to draw curves in a notebook.

  Returns:
    The signal that stopped it, or None.
  """
  from dlrm_jax.cluster.signals import Signals

  with Signals(raises) as signals:
    from dlrm_jax import sharding
    from dlrm_jax.build.data import identity, open_data
    from dlrm_jax.build.run import build_run
    from dlrm_jax.run import loop, room, summary, workdir
    from dlrm_jax.run.profile import profile as measure

    data = open_data(config)
    run = build_run(config, data, folder, _defaults())
    curves = _curves(run) if live else None
    with sharding.use(loop.choose_mesh(run)):
      room.check_room(run)
      if profile is not None:
        measure(run, profile)
        return None
      claim = workdir.Claim(run.config, identity(data), run.steps, _defaults())
      with workdir.claimed(folder, claim):
        lines = [*summary.plan_lines(run), *(f'note      {x}' for x in notes)]
        print(*lines, sep='\n', flush=True)
        return loop.train(run, signals, curves.draw if curves else None)


def _notes(argv: Sequence[str], config: ConfigDict, folder: Path) -> list[str]:
  """Notes of fields without an effect; refuses those that flags set."""
  from dlrm_jax.run.workdir import started

  return command_line.notes_of_unused(
    argv, config, _defaults(), started(folder)
  )


def train(
  config: ConfigDict | str | os.PathLike[str],
  workdir: str | os.PathLike[str],
  live: bool = False,
) -> dict[str, Any]:
  """Trains a recommender, or continues its run, as the command does.

  Args:
    config: all settings, such as `configs.criteo_kaggle.get_config()` gives
      them; or the name of a file, `configs/NAME.py` or
      `configs/NAME.py:VARIANT`.
    workdir: folder for checkpoints, logs and the report.
    live: whether to draw curves in a notebook while it trains.

  Returns:
    The results, as `results.json` of the workdir has them.

  Raises:
    InputError: the config, the data or the folder is wrong.
    KeyboardInterrupt: a signal, such as that of Ctrl-C, stopped the run. What
      was trained is saved, unless this was the second signal; the same call
      goes on. Only calls in the main thread heed signals.
  """
  from dlrm_jax.run.workdir import RESULTS, read_object

  if not isinstance(live, bool):
    raise InputError(f'live is {shown(live)}; expected True or False')
  folder = path_of('workdir', workdir)
  config = config_file.taken(config, _defaults())
  notes = _notes((), config, folder)
  stopped_by = _train(config, folder, notes, raises=True, live=live)
  if stopped_by:
    raise Ended(stopped_by)
  return read_object(folder / RESULTS)


@exit_cleanly
def main(argv: Sequence[str]) -> int:
  """Joins the other processes of the job, builds the run and trains it."""
  flags = command_line.read_flags(_parser(), argv, _defaults())
  heap.keep_freed_memory()
  config, folder = flags.config, Path(flags.workdir)
  if config.train.cache_programs:
    from dlrm_jax.program_cache import keep_programs

    keep_programs()
  notes = _notes(argv, config, folder)
  with job.joined(flags):
    stopped_by = _train(config, folder, notes, flags.profile)
  return status_of(stopped_by) if stopped_by else 0


def run() -> int:
  """The command."""
  end_at_once()
  return main(sys.argv[1:])


make_callable(__name__, train)

if __name__ == '__main__':
  sys.exit(run())
