"""The training loop: restore or create a state, step, evaluate, save, stop.

The state, the position in the data and the decision to stop early are
functions of the last checkpoint and the log up to it. So a run that was
killed and started again ends with the same bits as one that was not.

All processes of a job run this loop and decide alike: process 0 reads what
was decided before, scores are those of all processes, and a signal to one
process stops all.
"""

import contextlib
import functools
import itertools
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from dlrm_jax import sharding
from dlrm_jax.batch import Batch
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.cluster import agreement, job
from dlrm_jax.cluster.signals import Signals
from dlrm_jax.data.loader import Batches, batch_shapes, training_batches
from dlrm_jax.data.schema import Source
from dlrm_jax.embedding.features import mean_pooled
from dlrm_jax.errors import InputError
from dlrm_jax.run import workdir
from dlrm_jax.run.ahead import ahead, compile_ahead, import_ahead
from dlrm_jax.run.description import Run
from dlrm_jax.run.evaluation import Evaluator, Stopped
from dlrm_jax.run.finish import check_files, finish
from dlrm_jax.run.first_state import first_state, origin_lines
from dlrm_jax.run.history import OUT_OF_RANGE, History
from dlrm_jax.run.meter import Meter
from dlrm_jax.run.parts import INPUT
from dlrm_jax.run.validation import Validation, stops_early, with_rates
from dlrm_jax.training.nodes import compiled_average
from dlrm_jax.training.state import (
  TrainState,
  abstract_state,
  fresh_tables,
)
from dlrm_jax.training.step import StepMetrics, compiled_step
from dlrm_jax.vocabulary.policy import UNKNOWN

Draw = Callable[[Sequence[Mapping[str, Any]], bool], None]
"""Draws the lines of the log; the second argument says that they are all."""
Update = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def _last_step(checkpoints: Checkpoints) -> int | None:
  """The step of the last checkpoint; None: there is none."""
  latest = checkpoints.latest
  step = agreement.from_first(-1 if latest is None else latest)
  return None if step < 0 else step


def _state_at(
  run: Run, checkpoints: Checkpoints, step: int | None
) -> TrainState:
  """The state of a checkpoint, or a new one."""
  if step is None:
    try:
      return first_state(run)
    except InputError:
      workdir.release(run.workdir)
      raise
  lines = [f'resuming from the checkpoint of step {step:,}', *origin_lines(run)]
  print(*lines, sep='\n', flush=True)
  return checkpoints.restore(step, abstract_state(run.task))


def batches_from(run: Run, source: Source, step: int) -> Batches:
  """The training batches after `step`: this process's part of each.

  Args:
    run: what is trained.
    source: the blocks of its split train.
    step: number of the last batch that was trained.
  """
  return training_batches(
    source,
    run.reading,
    step,
    jax.process_index(),
    jax.process_count(),
    name=f'{run.data_name}, split train',
    means=mean_pooled(run.task.collection.features),
  )


class _Begun(NamedTuple):
  """What a run trains with.

  Attributes:
    first: gives the first batch, which a thread reads meanwhile.
    batches: those after it.
    update: the step, which a thread compiles meanwhile.
  """

  first: Callable[[], Batch]
  batches: Batches
  update: Update


def _begin(run: Run, step: int) -> _Begun:
  """Begins to compile the step, and to read the batches after `step`."""
  source = run.data.source('train')
  where = sharding.sharding_of(sharding.SPLIT)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    batch_shapes(source, run.reading.batch_size),
  )
  batches = batches_from(run, source, step)
  first = ahead(lambda: next(batches), 'reader')
  update = compile_ahead(
    compiled_step(run.task), abstract_state(run.task), shapes
  )
  return _Begun(first, batches, update)


def _sent(batches: Iterator[Batch]) -> Iterator[Batch]:
  """Batches on the devices; a profile shows how long each was waited for."""
  while True:
    with jax.profiler.TraceAnnotation(INPUT):
      batch = sharding.send(next(batches))
    yield batch


def updates(
  run: Run,
  update: Update,
  batches: Iterator[Batch],
  state: TrainState,
  step: int,
  rates: Callable[[TrainState], TrainState] | None = None,
) -> Iterator[tuple[int, TrainState, StepMetrics]]:
  """Trains after `step`, for as long as the caller asks for more.

  Args:
    run: what is trained.
    update: the run's `compiled_step`.
    batches: the batches after `step`, by `batches_from`.
    state: the state at `step`; it is written in place.
    step: number of updates before.
    rates: lowers the learning rates as the evaluations so far say.

  Yields:
    The number of updates, the state, and the metrics of the last update.
  """
  average = compiled_average(run.task, keep=False)
  first = step
  # A step is dispatched, not awaited: the next batch is sent meanwhile.
  for batch in _sent(batches):
    if rates is not None and (step == first or run.evaluates(step)):
      state = rates(state)
    if run.fresh_tables and run.begins_epoch(step):
      state = fresh_tables(run.task, state, jax.random.key(run.seed + step))
    state, metrics = update(state, batch)
    step += 1
    if run.average_every and step % run.average_every == 0:
      state = average(state)
    yield step, state, metrics


class _OutOfRange:
  """Counts ids that became the unknown row, over all starts of a run.

  The log has the count at every checkpoint, so that a run which goes on from
  a checkpoint counts each trained example once.
  """

  def __init__(self, run: Run, history: History, batches: Batches) -> None:
    before = [row[OUT_OF_RANGE] for row in history.rows if OUT_OF_RANGE in row]
    self._before = agreement.from_first(int(before[-1]) if before else 0)
    self._counts = run.reading.out_of_range == UNKNOWN
    self._history, self._batches = history, batches

  def log(self, step: int) -> None:
    """Logs the count, where such ids are allowed."""
    if self._counts:
      count = self._before + agreement.total(self._batches.out_of_range)
      self._history.add(step, {OUT_OF_RANGE: count})


def _progress(run: Run, step: int) -> tqdm:
  """The progress bar of examples, on process 0."""
  size = run.reading.batch_size
  return tqdm(
    desc='train',
    total=run.steps * size,
    initial=step * size,
    unit=' examples',
    unit_scale=True,
    mininterval=0.1 if sys.stderr.isatty() else 5,
    disable=not agreement.first(),
  )


def _fit(
  run: Run,
  checkpoints: Checkpoints,
  evaluate: Evaluator,
  signals: Signals,
  draw: Draw | None,
) -> tuple[TrainState, int, int]:
  """Steps until the end, early stopping, or a signal.

  Returns:
    The last state, its step, and the number of the signal or 0.
  """
  last = _last_step(checkpoints)
  step = first = last or 0
  # The compiler and the reader begin while the state is made or read.
  begun = None if first >= run.steps else _begin(run, first)
  state = _state_at(run, checkpoints, last)
  with (
    contextlib.closing(History(run.workdir, first)) as history,
    _progress(run, first) as bar,
  ):
    validate = Validation(run, evaluate, history, bar)
    validate.catch_up(checkpoints, state, step)
    if begun is None or stops_early(run, history):
      bar.write(f'nothing left to train after step {step:,}')
      if draw is not None:
        draw(history.rows, True)
      return state, step, 0
    meter = Meter(run.reading.batch_size, history.unlogged(first))
    out_of_range = _OutOfRange(run, history, begun.batches)
    rates = functools.partial(with_rates, run, history, bar.write)
    batches = itertools.chain([begun.first()], begun.batches)
    steps = updates(run, begun.update, batches, state, first, rates)
    for step, state, metrics in steps:
      if step == first + 1:
        import_ahead()
      signals.hold()
      meter.add(step, metrics)
      bar.update(run.reading.batch_size)
      due, scores = run.due(step), {}
      stopping = signals.poll() > 0
      if due.log:
        meter.settle()
        line = meter.read()
        history.add(step, line)
        last = step == run.steps
        bar.set_postfix_str(
          f'step {step:,}, loss {line["loss"]:.4f}', refresh=last
        )
      if due.evaluation and not stopping:
        # Before the checkpoint, which keeps the scores of its state.
        try:
          scores = validate(state, step, signals.poll)
        except Stopped:
          stopping = True
        meter.restart()
      if due.log and draw is not None and step < run.steps:
        draw(history.rows, False)
        meter.restart()
      if due.checkpoint or stopping:
        # Nothing is saved before the last loss is known to be finite, and the
        # log has all up to a checkpoint before the checkpoint is there.
        meter.settle()
        if not due.log:
          history.add_unlogged(step, *meter.unread)
        out_of_range.log(step)
        checkpoints.save(step, state, scores)
      if stopping or step == run.steps:
        break
      if due.evaluation and stops_early(run, history):
        bar.write(
          f'stopped early: no better {run.objective.label} in {run.patience} '
          f'evaluations'
        )
        break
    if draw is not None:
      draw(history.rows, True)
    return state, step, signals.wait()


def choose_mesh(run: Run) -> Mesh:
  """The devices to train on.

  Raises:
    InputError: devices or processes cannot have equal parts of the work.
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


def train(run: Run, signals: Signals, draw: Draw | None = None) -> int:
  """Trains, or goes on training, and reports on the best checkpoint.

  Args:
    run: what is trained.
    signals: the signals of the process, entered.
    draw: draws the log, each time that it has a new line.

  Returns:
    0 when the run is finished, else the number of the signal that stopped it.

  Raises:
    InputError: the loss was not finite, or the data or a checkpoint is bad.
  """
  evaluate = Evaluator(run.task)
  layout = run.task.collection.layout
  with (
    contextlib.closing(
      Checkpoints(run.workdir / 'checkpoints', layout, run.keep, run.objective)
    ) as checkpoints,
    job.exiting_on_error(),
  ):
    if agreement.first():
      check_files(run)
    state, step, stopped_by = _fit(run, checkpoints, evaluate, signals, draw)
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
