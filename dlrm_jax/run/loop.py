"""The loop: restore or create, step, evaluate, save; stop when told to.

The state, the position in the data and the decision to stop early are
functions of the last checkpoint and the log up to it. So a run that was
killed and started again ends with the very bits of one that was not.

All processes of a job come here, and decide alike: process 0 reads what was
decided before, scores are those of all, and a signal to one is for all.
"""

import contextlib
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from dlrm_jax import sharding
from dlrm_jax.batch import Batch
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.cluster import agreement, job
from dlrm_jax.cluster.signals import Signals
from dlrm_jax.data.loader import Batches, training_batches
from dlrm_jax.embedding.features import mean_pooled
from dlrm_jax.errors import InputError
from dlrm_jax.metrics import binary
from dlrm_jax.run.description import Run
from dlrm_jax.run.evaluation import Evaluator, Stopped, never
from dlrm_jax.run.finish import check_writable, finish
from dlrm_jax.run.history import OUT_OF_RANGE, History
from dlrm_jax.run.meter import Meter
from dlrm_jax.run.parts import INPUT
from dlrm_jax.run.scores import with_error
from dlrm_jax.run.scoring import batches_of, score, undefined_line
from dlrm_jax.training.nodes import compiled_average
from dlrm_jax.training.state import (
  TrainState,
  abstract_state,
  fresh_tables,
  new_state,
)
from dlrm_jax.training.step import StepMetrics, compiled_step
from dlrm_jax.vocabulary.policy import UNKNOWN

Update = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def _first_state(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, int]:
  """The last checkpoint's state, or a new one; and its step."""
  step = agreement.from_first(checkpoints.latest or 0)
  if not step:
    return new_state(run.task, jax.random.key(run.seed)), 0
  print(f'resuming from the checkpoint of step {step:,}', flush=True)
  return checkpoints.restore(step, abstract_state(run.task)), step


def batches_from(run: Run, step: int) -> Batches:
  """What is trained on after `step`: this process's part of every batch."""
  return training_batches(
    run.data.source('train'),
    run.reading,
    step,
    jax.process_index(),
    jax.process_count(),
    name=f'{run.data_name}, split train',
    means=mean_pooled(run.task.collection.features),
  )


def _sent(batches: Batches) -> Iterator[Batch]:
  """Batches on the devices; a profile shows how long each was waited for."""
  while True:
    with jax.profiler.TraceAnnotation(INPUT):
      batch = sharding.send(next(batches))
    yield batch


def updates(
  run: Run, update: Update, batches: Batches, state: TrainState, step: int
) -> Iterator[tuple[int, TrainState, StepMetrics]]:
  """Steps after `step`, for as long as they are asked for.

  Args:
    run: what is trained.
    update: `compiled_step` of it.
    batches: those after `step`, by `batches_from`.
    state: the one of `step`; it is written in place.
    step: updates made before.

  Yields:
    Updates made, the state then, and what the last one told.
  """
  average = compiled_average(run.task)
  # A step is dispatched, not awaited: the next batch is sent meanwhile.
  for batch in _sent(batches):
    if run.fresh_tables and run.begins_epoch(step):
      state = fresh_tables(run.task, state, jax.random.key(run.seed + step))
    state, told = update(state, batch)
    step += 1
    if run.average_every and step % run.average_every == 0:
      state = average(state)
    yield step, state, told


class _OutOfRange:
  """Counts ids that became the unknown row, over all starts of a run.

  The log has the number at every checkpoint, so that a run which goes on
  from one counts each trained example once.
  """

  def __init__(self, run: Run, history: History, batches: Batches) -> None:
    before = [row[OUT_OF_RANGE] for row in history.rows if OUT_OF_RANGE in row]
    self._before = agreement.from_first(int(before[-1]) if before else 0)
    self._asked = run.reading.out_of_range == UNKNOWN
    self._history, self._batches = history, batches

  def note(self, step: int) -> None:
    """Adds the number to the log, if it was asked for."""
    if self._asked:
      now = self._before + agreement.total(self._batches.out_of_range)
      self._history.add(step, {OUT_OF_RANGE: now})


class _Validation:
  """Evaluations of split validation while a run trains.

  Attributes:
    asked: whether there is such a split.
  """

  def __init__(
    self, run: Run, evaluate: Evaluator, history: History, bar: tqdm
  ) -> None:
    self._run, self._evaluate = run, evaluate
    self._history, self._bar = history, bar
    examples = run.data.splits.get('validation', 0)
    self.asked = examples > 0
    clicks = run.data.clicks.get('validation')
    self._warned = False
    if self.asked and clicks is not None:
      self._warn(examples, clicks)

  def __call__(
    self, state: TrainState, step: int, stop: Callable[[], int | bool] = never
  ) -> dict[str, float]:
    """Metrics of a state, logged; {} where nothing was asked.

    Raises:
      Stopped: `stop` said so.
    """
    if not self.asked:
      return {}
    batches = batches_of(self._run, 'validation')
    tally = score(self._run, self._evaluate, state, step, batches, stop)
    scores = binary.summarize(tally)
    self._warn(scores['examples'], scores['clicks'])
    self._bar.write(
      f'step {step:>9,}  validation AUC {with_error(scores, "auc")}  '
      f'log-loss {with_error(scores, "log_loss")}'
    )
    self._history.add(step, {f'validation/{k}': v for k, v in scores.items()})
    return scores

  def _warn(self, examples: float, clicks: float) -> None:
    """Says once why there is no AUC, if there is none, and what follows."""
    line = undefined_line('validation', examples, clicks)
    if line and not self._warned:
      self._bar.write(
        f'{line}; it neither stops the run early (config.train.patience) nor '
        f'chooses the best checkpoint'
      )
      self._warned = True


def _should_stop(run: Run, history: History) -> bool:
  stops = history.should_stop(run.patience, run.evaluates)
  return bool(agreement.from_first(stops))


def _candidate(scores: Mapping[str, float]) -> dict[str, float] | None:
  """What a checkpoint remembers of its evaluation; None where AUC is undefined.

  Orbax must not see NaN: it would remove the best checkpoint for it.
  """
  known = {k: v for k, v in scores.items() if math.isfinite(v)}
  return known if 'auc' in known else None


def _catch_up(
  run: Run,
  checkpoints: Checkpoints,
  validate: _Validation,
  history: History,
  state: TrainState,
  step: int,
) -> None:
  """Makes the evaluation that a signal kept a run from after its last step."""
  done = agreement.from_first(history.evaluated(step))
  if step and run.evaluates(step) and validate.asked and not done:
    scores = _candidate(validate(state, step))
    if scores:
      checkpoints.add_scores(step, scores)


def _fit(
  run: Run, checkpoints: Checkpoints, evaluate: Evaluator, signals: Signals
) -> tuple[TrainState, int, int]:
  """Steps until the end, early stopping, or a signal.

  Returns:
    The last state, its step, and the signal's number or 0.
  """
  size = run.reading.batch_size
  state, first = _first_state(run, checkpoints)
  step = first
  with (
    contextlib.closing(History(run.workdir, first)) as history,
    tqdm(
      desc='train',
      total=run.steps * size,
      initial=first * size,
      unit=' examples',
      unit_scale=True,
      mininterval=0.1 if sys.stderr.isatty() else 5,
      disable=not agreement.first(),
    ) as bar,
  ):
    validate = _Validation(run, evaluate, history, bar)
    _catch_up(run, checkpoints, validate, history, state, step)
    if step >= run.steps or _should_stop(run, history):
      bar.write(f'nothing left to train after step {step:,}')
      return state, step, 0
    meter = Meter(size, history.unlogged(first))
    batches = batches_from(run, first)
    out_of_range = _OutOfRange(run, history, batches)
    made = updates(run, compiled_step(run.task), batches, state, first)
    for step, state, told in made:
      signals.hold()
      meter.add(step, told)
      bar.update(size)
      ends, scores = signals.poll() > 0, {}
      evaluates = run.evaluates(step)
      saves = ends or evaluates or step % run.checkpoint_every == 0
      logs = evaluates or step % run.log_every == 0
      if logs:
        meter.settle()
        line = meter.read()
        history.add(step, line)
        last = step == run.steps
        bar.set_postfix_str(
          f'step {step:,}, loss {line["loss"]:.4f}', refresh=last
        )
      if evaluates and not ends:
        try:
          scores = validate(state, step, signals.poll)
        except Stopped:
          ends = True
        meter.restart()
      if saves:
        meter.settle()
        if not logs:
          history.add_unlogged(step, *meter.unread)
        out_of_range.note(step)
        checkpoints.save(step, state, _candidate(scores))
      if ends or step == run.steps:
        break
      if evaluates and _should_stop(run, history):
        bar.write(f'stopped early: no better AUC in {run.patience} evaluations')
        break
    return state, step, signals.wait()


def choose_mesh(run: Run) -> Mesh:
  """The devices to train on.

  Raises:
    InputError: devices or processes can't have equal parts of the work.
  """
  if run.reading.lanes % jax.process_count():
    raise InputError(
      f'config.data.lanes is {run.reading.lanes}; expected a multiple of the '
      f'{jax.process_count()} processes'
    )
  return sharding.choose_mesh(
    run.task.collection.layout.shards,
    {
      'config.train.batch_size': run.reading.batch_size,
      'config.train.eval_batch_size': run.eval_batch_size,
    },
  )


def train(run: Run, signals: Signals) -> int:
  """Trains, or goes on training, and reports on the best checkpoint.

  Args:
    run: what is trained.
    signals: entered.

  Returns:
    0 when the run is finished, else the number of the signal that stopped it.

  Raises:
    InputError: the loss was not finite, or the data or a checkpoint is bad.
  """
  evaluate = Evaluator(run.task)
  layout = run.task.collection.layout
  with (
    contextlib.closing(
      Checkpoints(run.workdir / 'checkpoints', layout, run.keep)
    ) as checkpoints,
    job.exiting_on_error(),
  ):
    if agreement.first():
      check_writable(run)
    state, step, stopped_by = _fit(run, checkpoints, evaluate, signals)
    checkpoints.wait()
    if stopped_by:
      print(
        f'{signal.Signals(stopped_by).name}: saved step {step:,} of '
        f'{run.steps:,}; the same command goes on from there'
      )
      return stopped_by
    signals.release()
    finish(run, evaluate, checkpoints, state, step)
  return 0
