"""The loop: restore or create, step, evaluate, save; stop when told to.

The state, the position in the data and the decision to stop early are
functions of the last checkpoint and the log up to it. So a run that was
killed and started again ends with the very bits of one that was not.

All processes of a job come here, and decide alike: process 0 reads what was
decided before, scores are those of all, and a signal to one is for all.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from dlrm_jax import agreement, cluster, metrics, sharding
from dlrm_jax.batch import Batch
from dlrm_jax.data.checked import UNKNOWN
from dlrm_jax.data.loader import Batches, evaluation_batches, training_batches
from dlrm_jax.errors import InputError
from dlrm_jax.training import report
from dlrm_jax.training.checkpoint import Checkpoints
from dlrm_jax.training.evaluation import Evaluator
from dlrm_jax.training.history import History, read_history
from dlrm_jax.training.meter import ADVICE, Meter
from dlrm_jax.training.nodes import (
  compiled_average,
  divergence,
  node_count,
  node_table,
)
from dlrm_jax.training.parts import INPUT
from dlrm_jax.training.plan import score_table, table_sizes
from dlrm_jax.training.run import Run
from dlrm_jax.training.signals import Signals
from dlrm_jax.training.state import (
  TrainState,
  abstract_state,
  fresh_tables,
  new_state,
)
from dlrm_jax.training.step import StepMetrics, compiled_step
from dlrm_jax.training.workdir import write_json

Update = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]

_OUT_OF_RANGE = 'out_of_range'


def _first_state(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, int]:
  """The last checkpoint's state, or a new one; and its step."""
  step = agreement.from_first(checkpoints.latest or 0)
  if not step:
    return new_state(run.task, jax.random.key(run.seed)), 0
  print(f'resuming from the checkpoint of step {step:,}')
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
    before = [
      row[_OUT_OF_RANGE] for row in history.rows if _OUT_OF_RANGE in row
    ]
    self._before = agreement.from_first(int(before[-1]) if before else 0)
    self._asked = run.reading.out_of_range == UNKNOWN
    self._history, self._batches = history, batches

  def note(self, step: int) -> None:
    """Adds the number to the log, if it was asked for."""
    if self._asked:
      now = self._before + agreement.total(self._batches.out_of_range)
      self._history.add(step, {_OUT_OF_RANGE: now})


def _batches(run: Run, split: str) -> Batches:
  return evaluation_batches(
    run.data.source(split),
    run.eval_batch_size,
    jax.process_index(),
    jax.process_count(),
    name=f'{run.data_name}, split {split}',
    out_of_range=run.reading.out_of_range,
  )


def _validate(
  run: Run, evaluate: Evaluator, state: TrainState, step: int
) -> dict[str, float]:
  """Metrics on the validation split; none where there is no such split."""
  if not run.data.splits.get('validation'):
    return {}
  try:
    return metrics.summarize(evaluate(state, _batches(run, 'validation')))
  except InputError as error:
    raise InputError(
      f'step {step}: {error}: the update made parameters too large, though '
      f'its loss was finite; {ADVICE}'
    ) from None


def _report_scores(bar: tqdm, step: int, scores: Mapping[str, float]) -> None:
  bar.write(
    f'step {step:>9,}  validation AUC {scores["auc"]:.5f}  '
    f'log-loss {scores["log_loss"]:.5f}'
  )


def _should_stop(run: Run, history: History) -> bool:
  return bool(agreement.from_first(history.should_stop(run.patience)))


def _fit(
  run: Run, checkpoints: Checkpoints, evaluate: Evaluator
) -> tuple[TrainState, int, int]:
  """Steps until the end, early stopping, or a signal.

  Returns:
    The last state, its step, and the signal's number or 0.
  """
  size = run.reading.batch_size
  state, first = _first_state(run, checkpoints)
  step, scores = first, None
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
    Signals() as signals,
  ):
    if step >= run.steps or _should_stop(run, history):
      bar.write(f'nothing left to train after step {step:,}')
      return state, step, 0
    meter, batches = Meter(size), batches_from(run, first)
    out_of_range = _OutOfRange(run, history, batches)
    made = updates(run, compiled_step(run.task), batches, state, first)
    for step, state, told in made:
      meter.add(step, told)
      bar.update(size)
      stopped_by = signals.of_any()
      last = step == run.steps or stopped_by > 0
      evaluates = step % run.eval_every == 0 or step == run.steps
      if last or evaluates or step % run.log_every == 0:
        meter.settle()
        line = meter.read()
        history.add(step, line)
        bar.set_postfix_str(
          f'step {step:,}, loss {line["loss"]:.4f}', refresh=last
        )
      if evaluates:
        scores = _validate(run, evaluate, state, step)
        if scores:
          _report_scores(bar, step, scores)
          history.add(step, {f'validation/{k}': v for k, v in scores.items()})
      if last or evaluates or step % run.checkpoint_every == 0:
        meter.settle()
        out_of_range.note(step)
        checkpoints.save(step, state, scores if evaluates else None)
      if evaluates:
        meter.restart()
      if evaluates and _should_stop(run, history):
        bar.write(f'stopped early: no better AUC in {run.patience} evaluations')
        break
      if last:
        break
    return state, step, signals.of_any_by_now()


class _Nodes(NamedTuple):
  """What nodes with tables of their own have learned: scores, divergence."""

  scores: dict[str, dict[str, float]]
  divergence: dict[str, float]


def _nodes(
  run: Run, evaluate: Evaluator, state: TrainState, splits: list[str]
) -> _Nodes | None:
  """Of the last split, where there are such nodes."""
  if not splits or not node_count(run.task):
    return None
  tallies = evaluate.nodes(state, _batches(run, splits[-1]))
  return _Nodes(
    {name: metrics.summarize(tally) for name, tally in tallies.items()},
    divergence(run.task, state),
  )


def _finish(
  run: Run,
  results: Mapping[str, metrics.Tally],
  nodes: _Nodes | None,
  step: int,
  best: int,
  out_of_range: Mapping[str, int],
) -> None:
  """Writes results.json and report.html, prints the metrics."""
  summaries = {split: metrics.summarize(t) for split, t in results.items()}
  references = {split: run.references(split) for split in results}
  history = read_history(run.workdir)
  extras: dict[str, Any] = {} if nodes is None else {'nodes': nodes._asdict()}
  if run.reading.out_of_range == UNKNOWN:
    trained = [row[_OUT_OF_RANGE] for row in history if _OUT_OF_RANGE in row]
    extras[_OUT_OF_RANGE] = {'train': (trained or [0])[-1], **out_of_range}
  write_json(
    run.workdir / 'results.json',
    {'step': best, 'splits': summaries, 'references': references} | extras,
  )
  last = list(results)[-1] if results else ''
  report.write_report(
    run.workdir / 'report.html',
    title=f'Training run {run.workdir.name}',
    results=results,
    history=history,
    tables=table_sizes(run.task),
    config=run.config,
    environment=report.environment(),
    references=references.get(last),
    notes=[
      f'{step:,} steps of {run.reading.batch_size:,} examples; results are '
      f'those of the checkpoint of step {best:,}, the '
      + ('best by validation AUC.' if 'validation' in results else 'last one.')
    ],
  )
  for split in results:
    print(score_table(split, summaries[split], references[split]))
  if nodes is not None:
    print(node_table(*nodes))
  for split, count in extras.get(_OUT_OF_RANGE, {}).items():
    print(f'{split}: {count:,} ids out of range became the unknown row')
  print(f'checkpoint of step {best:,}; see {run.workdir / "report.html"}')


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


def train(run: Run) -> bool:
  """Trains, or goes on training, and reports on the best checkpoint.

  Returns:
    Whether the run is finished; False when a signal stopped it.

  Raises:
    InputError: the loss was not finite, or the data or a checkpoint is bad.
  """
  evaluate = Evaluator(run.task)
  layout = run.task.collection.layout
  with (
    contextlib.closing(
      Checkpoints(run.workdir / 'checkpoints', layout, run.keep)
    ) as checkpoints,
    cluster.leaving_at_once(),
  ):
    state, step, stopped_by = _fit(run, checkpoints, evaluate)
    checkpoints.wait()
    if stopped_by:
      print(
        f'{signal.Signals(stopped_by).name}: saved step {step:,} of '
        f'{run.steps:,}; the same command goes on from there'
      )
      return False
    assert checkpoints.best is not None, 'the last step is always saved'
    best = agreement.from_first(checkpoints.best)
    if best != step:
      del state  # its memory is needed for the other one
      abstract = abstract_state(run.task)
      state = checkpoints.restore_for_evaluation(best, abstract)
    results, out_of_range = {}, {}
    for split in ('validation', 'test'):
      if run.data.splits.get(split):
        batches = _batches(run, split)
        results[split] = evaluate(state, batches)
        out_of_range[split] = agreement.total(batches.out_of_range)
    nodes = _nodes(run, evaluate, state, list(results))
  if agreement.first():
    _finish(run, results, nodes, step, best, out_of_range)
  return True
