"""A profile: records some training steps, and prints their time by part.

A profile is a measurement, not a part of a run: it starts from a new state,
uses the batches and the compiled step of training, and writes only a trace.
"""

from collections.abc import Mapping
from pathlib import Path

import jax

from dlrm_jax import files
from dlrm_jax.batch import Batch
from dlrm_jax.cluster import agreement
from dlrm_jax.errors import InputError
from dlrm_jax.run.description import Run
from dlrm_jax.run.loop import batches_from, updates
from dlrm_jax.run.meter import Meter
from dlrm_jax.run.parts import RECORDED, read_trace
from dlrm_jax.training.state import TrainState, new_state
from dlrm_jax.training.step import StepMetrics, compiled_step

# While the step is compiled, the loader prefetches about this many examples.
# They are used up first, or the profile would show no waits for input.
_MADE_AHEAD = 65_536
_LEAST_WARM_UP = 10
_MOST = 1000  # a trace has hundreds of events a step, and viewers their limits


def _agree(run: Run, steps: int) -> None:
  """Raises an `InputError` if processes differ and so would hang."""
  mine = files.to_json([run.config, run.data.fingerprint, steps])
  differs = agreement.from_all(mine != agreement.text_of_first(mine))
  if any(differs):
    raise InputError(
      f'--profile: process {differs.index(1)} of this job has another config, '
      'other data or another number of steps than process 0'
    )


def _folder(run: Run) -> Path:
  """Creates the folder that this process writes its trace to."""
  folder = run.workdir / 'profile'
  if jax.process_count() > 1:
    folder /= f'process_{jax.process_index()}'
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      f'{folder}: {error.strerror}; choose another --workdir'
    ) from None
  return folder


def time_table(parts: Mapping[str, float], steps: int, batch_size: int) -> str:
  """Time by part, and examples a second, as text.

  Args:
    parts: nanoseconds of each part in all steps.
    steps: number of steps.
    batch_size: number of examples of a step.

  >>> print(time_table({'lookup': 3e6, 'idle': 1e6}, 2, 100))
  part of a step           ms    share
    lookup              1.500   75.0 %
    idle                0.500   25.0 %
    all                 2.000  100.0 %
  50,000 examples/s while recorded
  """
  total = sum(parts.values())
  lines = [f'{"part of a step":<18}{"ms":>9}{"share":>9}']
  for name, part in [*parts.items(), ('all', total)]:
    ms = part / steps / 1e6
    lines.append(f'  {name:<16}{ms:>9.3f}{100 * part / total:>7.1f} %')
  speed = steps * batch_size / (total / 1e9)
  return '\n'.join([*lines, f'{speed:,.0f} examples/s while recorded'])


def profile(run: Run, steps: int) -> None:
  """Records training steps and prints their time by part.

  Args:
    run: the run; only its description is used, its workdir is not changed.
    steps: number of steps to record, after some to warm up.

  Raises:
    InputError: too few or too many steps, processes that differ, a loss that
      is not finite, bad data, or a folder that cannot be made.
  """
  if not 1 <= steps <= _MOST:
    raise InputError(f'--profile={steps}: expected 1 to {_MOST:,} steps')
  _agree(run, steps)
  folder, size = _folder(run), run.reading.batch_size
  warm_up = max(_LEAST_WARM_UP, _MADE_AHEAD // size)
  print(
    f'profile   {warm_up:,} steps to warm up, then {steps:,} recorded, all of '
    f'a new state; a run in {run.workdir} is neither read nor changed'
  )
  step, programs, meter = compiled_step(run.task), [], Meter(size)

  def update(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
    if not programs:
      programs.append(step.lower(state, batch).compile().as_text())
    return step(state, batch)

  state = new_state(run.task, jax.random.key(run.seed))
  batches = batches_from(run, run.data.source('train'), 0)
  steps_made = updates(run, update, batches, state, 0)

  def advance(numbers: range) -> None:
    for number in numbers:
      with jax.profiler.StepTraceAnnotation('step', step_num=number):
        _, _, metrics = next(steps_made)
        meter.add(number, metrics)
    meter.settle()

  advance(range(warm_up))
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # it would slow down the steps
  with (
    jax.profiler.trace(
      folder, create_perfetto_trace=True, profiler_options=options
    ),
    jax.profiler.TraceAnnotation(RECORDED),
  ):
    advance(range(warm_up, warm_up + steps))
  trace = max(
    folder.glob('plugins/profile/*/*.xplane.pb'),
    key=lambda path: path.stat().st_mtime,
  )
  if agreement.first():
    print(time_table(read_trace(trace, programs[0]), steps, size))
    print(
      f'trace     {trace.parent}\n'
      '          https://ui.perfetto.dev opens its perfetto_trace.json.gz\n'
      f'          tensorboard --logdir={run.workdir / "profile"}, '
      'after pip install xprof'
    )
