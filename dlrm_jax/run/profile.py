"""A profile: some steps of training, recorded, and their time by part.

It is a measurement, and no part of a run: it starts from a new state, takes
the batches and the compiled step that training takes, and writes a trace and
nothing else.
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
from dlrm_jax.run.parts import RECORDED, read
from dlrm_jax.training.state import TrainState, new_state
from dlrm_jax.training.step import StepMetrics, compiled_step

# While the step is compiled, the loader makes about so many examples ahead.
# They are used up first: else no input would ever be waited for.
_MADE_AHEAD = 65_536
_LEAST_WARM_UP = 10
_MOST = 1000  # a trace has hundreds of events a step, and viewers their limits


def _agree(run: Run, steps: int) -> None:
  """Raises where processes would wait for each other for ever."""
  mine = files.to_json([run.config, run.data.fingerprint, steps])
  differs = agreement.from_all(mine != agreement.text_of_first(mine))
  if any(differs):
    raise InputError(
      f'--profile: process {differs.index(1)} of this job has another config, '
      'other data or another number of steps than process 0'
    )


def _folder(run: Run) -> Path:
  """Where this process writes its trace; made."""
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


def table(parts: Mapping[str, float], steps: int, batch_size: int) -> str:
  """Time by part, and the speed.

  Args:
    parts: nanoseconds of each, in all steps together.
    steps: how many.
    batch_size: examples of each.

  >>> print(table({'lookup': 3e6, 'idle': 1e6}, 2, 100))
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
  """Records steps of training; prints their time by part.

  Args:
    run: of which nothing is read but its description.
    steps: to record, after some to warm up.

  Raises:
    InputError: too few or too many steps, processes that differ, a loss that
      is not finite, bad data, or a folder that can't be made.
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
  made = updates(run, update, batches_from(run, 0), state, 0)

  def advance(numbers: range) -> None:
    for number in numbers:
      with jax.profiler.StepTraceAnnotation('step', step_num=number):
        _, _, told = next(made)
        meter.add(number, told)
    meter.settle()

  advance(range(warm_up))
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # it would slow down what it looks at
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
    print(table(read(trace, programs[0]), steps, size))
    print(
      f'trace     {trace.parent}\n'
      '          https://ui.perfetto.dev opens its perfetto_trace.json.gz\n'
      f'          tensorboard --logdir={run.workdir / "profile"}, '
      'after pip install xprof'
    )
