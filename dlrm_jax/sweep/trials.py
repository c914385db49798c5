"""Trials: the runs of a comparison, one after the other in this process.

A trial is an ordinary run in a folder of its own, as `train.py` makes it. A
finished one has results, and is not made again; another one goes on from its
last checkpoint.
"""

import contextlib
import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dlrm_jax import files, sharding
from dlrm_jax.build.data import identity
from dlrm_jax.cluster.signals import Signals
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.run import loop, room, summary, workdir
from dlrm_jax.run.description import Run
from dlrm_jax.run.scores import flat_scores, with_error
from dlrm_jax.text import duration

SplitScores = Mapping[str, float]
"""Metrics of a run on one split, named as by `flat_scores`."""


class Trial(NamedTuple):
  """A run of a comparison.

  Attributes:
    point: what its settings are, without the seed; its text is their name.
    seed: the seed.
    run: the run.
  """

  point: Hashable
  seed: int
  run: Run

  def __str__(self) -> str:
    return f'{self.point}, seed {self.seed}'.removeprefix(', ')

  def claimed(self) -> contextlib.AbstractContextManager[None]:
    """Context in which the folder of the run belongs to this process.

    Raises:
      InputError: a run of another config made the folder.
    """
    run, defaults = self.run, default.get_config().to_dict()
    claim = workdir.Claim(run.config, identity(run.data), run.steps, defaults)
    return workdir.claimed(run.workdir, claim)

  def scores(self, split: str) -> SplitScores | None:
    """Metrics of a finished run; None if it is not finished.

    A damaged file of results counts as none, so that the run is made again.

    Raises:
      InputError: a run of another config made the folder.
    """
    if not workdir.started(self.run.workdir):
      return None
    with (
      self.claimed(),
      contextlib.suppress(OSError, ValueError, LookupError),
      contextlib.suppress(TypeError, AttributeError),
    ):
      splits = files.read_json(self.run.workdir / workdir.RESULTS)['splits']
      heads = {k: v for k, v in splits.items() if k.partition('/')[0] == split}
      scores = flat_scores(
        {k.partition('/')[2]: v for k, v in heads.items()}
      ).items()
      found = {k: math.nan if v is None else float(v) for k, v in scores}
      return found or None
    return None

  def train(self, signals: Signals) -> int:
    """Trains, or continues; prints into log.txt of the run's folder.

    Returns:
      The number of the signal that stopped the run, or 0.
    """
    with contextlib.ExitStack() as stack:
      # Otherwise the programs of all runs stay in memory.
      stack.callback(jax.clear_caches)
      enter = stack.enter_context
      enter(sharding.use(loop.choose_mesh(self.run)))
      room.check_room(self.run)
      enter(self.claimed())
      log = enter((self.run.workdir / 'log.txt').open('a', buffering=1))
      enter(contextlib.redirect_stdout(log))
      print(*summary.plan_lines(self.run), sep='\n')
      return loop.train(self.run, signals)


class Outcomes:
  """What has become of some trials.

  Attributes:
    trials: all of them.
    split: the split on which they are compared.
    scores: metrics of the finished ones, by folder.
    failures: why others failed, by folder.
  """

  def __init__(self, trials: Sequence[Trial], split: str) -> None:
    """Reads the results of those that are finished.

    Raises:
      InputError: a run of another config made the folder of one.
    """
    self.trials, self.split = trials, split
    read = {trial.run.workdir: trial.scores(split) for trial in trials}
    self.scores = {folder: found for folder, found in read.items() if found}
    self.failures: dict[Path, str] = {}

  def scores_of(self, trials: Sequence[Trial]) -> dict[int, SplitScores]:
    """Metrics of those of some trials that are finished, by seed."""
    return {
      trial.seed: self.scores[trial.run.workdir]
      for trial in trials
      if trial.run.workdir in self.scores
    }

  def by_point(self) -> dict[Any, list[Trial]]:
    """The trials by their point, in the order of the first ones."""
    found: dict[Any, list[Trial]] = {}
    for trial in self.trials:
      found.setdefault(trial.point, []).append(trial)
    return found


Shown = Callable[[Iterable[str]], Sequence[Objective]]
"""Chooses, of the names of a run's metrics, what is printed of it."""


def _said(outcomes: Outcomes, folder: Path, metrics: Shown) -> str:
  if folder in outcomes.failures:
    return f'failed: {outcomes.failures[folder]}'
  scores = outcomes.scores[folder]
  shown = (
    f'{metric.label} {with_error(scores, metric.name)}'
    for metric in metrics(scores)
    if metric.name in scores
  )
  return f'{outcomes.split} {", ".join(shown)}'


def _left(seconds: Sequence[float], trials: int) -> str:
  """Estimated duration of the trials that are left, from those before."""
  if not trials:
    return 'all done'
  return f'{duration(sum(seconds) / len(seconds) * trials)} left for {trials}'


def train_all(
  outcomes: Outcomes, metrics: Shown, report: Callable[[], None]
) -> int:
  """Trains the trials that are not finished, and prints a line of each.

  A trial that fails, such as one whose loss becomes infinite, is told and
  counted; the others go on. The same call later tries it again.

  Args:
    outcomes: what is known of the trials; it is completed.
    metrics: chooses the metrics to print.
    report: called after each trial, and once where there is nothing to train.

  Returns:
    The number of the signal that stopped a run, or 0.
  """
  total = len(outcomes.trials)
  waiting = [t for t in outcomes.trials if t.run.workdir not in outcomes.scores]
  seconds: list[float] = []
  for done, trial in enumerate(waiting, total - len(waiting) + 1):
    start, folder = time.monotonic(), trial.run.workdir
    print(f'{done}/{total}  {trial}', flush=True)
    try:
      with Signals() as signals:
        stopped_by = trial.train(signals)
      if stopped_by:
        print('stopped; the same command goes on from there')
        return stopped_by
      scores = trial.scores(outcomes.split)
      if scores is None:
        raise InputError(f'{folder / workdir.RESULTS}: cannot be read')
      outcomes.scores[folder] = scores
    except (InputError, jax.errors.JaxRuntimeError) as error:
      outcomes.failures[folder] = str(error).splitlines()[0]
    report()
    seconds.append(time.monotonic() - start)
    print(
      f'      {_said(outcomes, folder, metrics)}; took '
      f'{duration(seconds[-1])}, {_left(seconds, total - done)}',
      flush=True,
    )
  if not waiting:
    report()
  return 0


def make_folder(folder: Path, names: Sequence[str]) -> None:
  """Makes the folder of a comparison.

  Args:
    folder: the folder.
    names: files that will be written there.

  Raises:
    InputError: one of them could not be written.
  """
  files.check_place(folder / names[0], f'--workdir={folder}')
  with files.writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
  for name in names:
    files.check_writable(folder / name, '--workdir')
