"""Units run by Apache Beam: with any of its runners, on many machines.

A stage is a pipeline whose elements name the undone units. A worker runs a
unit by the same function as a process of this machine, and writes the same
file to the work folder, which all machines share. So the result does not
depend on the runner, and a pipeline that was stopped continues.
"""

import contextlib
import importlib
import io
import os
import pickle
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.units import Stage, do_unit, progress_bar, undone

_OPTIONS = (
  # A worker's account of a failure is in the error that comes back.
  '--default_sdk_harness_log_level=CRITICAL',
  # A unit may use all memory of a worker.
  '--number_of_worker_harness_threads=1',
)
"""Options of Beam that the user's options may override."""

_PATIENCE = 90
"""Seconds to wait for files of workers: NFS clients look once a minute."""

_REFUSED = r'dlrm_jax\.errors\.InputError: (.*?)(?: \[while running .*)?$'
_LACKING = r"No module named '[^']*'"

_ROOM = 4096
"""Bytes for a message, reserved before the disk can be full."""

Place = tuple[str, int, int]
"""Place of a pickled unit: file, first byte, number of bytes."""


def _error_file(path: str | Path) -> Path:
  """The file for the first error, beside the file of the units."""
  return Path(f'{path}.wrong')


def _keep(
  path: Path, function: Callable[[Any], None], units: Sequence[Any]
) -> list[Place]:
  """Writes units to a file, because they may exceed a pipeline's limits."""
  _error_file(path).write_text(' ' * _ROOM)
  places = []
  with path.open('wb') as file:
    for unit in units:
      start = file.tell()
      length = file.write(pickle.dumps((function, unit)))
      places.append((str(path), start, length))
  return places


def _absent(error: FileNotFoundError) -> InputError:
  return InputError(
    f'{error.filename or error}: a worker of Beam does not find it; all '
    'machines must have the input and the output under the same absolute names'
  )


def _do(place: Place) -> None:
  """Runs a unit in a worker, unless another unit has failed already."""
  # Runners start a worker for each core. Polars reads this when it is loaded.
  os.environ.setdefault('POLARS_MAX_THREADS', '1')
  path, start, length = place
  try:
    errors = _error_file(path).open('rb+')
  except FileNotFoundError as error:
    raise _absent(error) from None
  with errors:
    if errors.read().strip():
      return
    with open(path, 'rb') as file:
      file.seek(start)
      function, unit = pickle.loads(file.read(length))
    try:
      do_unit(function, unit)
    except (InputError, FileNotFoundError) as error:
      if unit.output.exists():  # Another worker ran it, and cleaned up.
        return
      # Not raised: runners would try again, and log a page each time.
      refused = error if isinstance(error, InputError) else _absent(error)
      errors.seek(0)
      errors.write(str(refused).encode()[:_ROOM].ljust(_ROOM))


@contextlib.contextmanager
def _watched(progress: tqdm, units: Sequence[Any]) -> Iterator[None]:
  """Shows the number of outputs while the body runs.

  Runners have no common way to report progress.
  """
  ended = threading.Event()

  def watch() -> None:
    while not ended.wait(2):
      progress.update(len(units) - len(undone(units)) - progress.n)

  watcher = threading.Thread(target=watch, daemon=True)
  if not progress.disable:
    watcher.start()
  try:
    yield
  finally:
    ended.set()
    if watcher.is_alive():
      watcher.join()


def _run(pipeline: Any) -> None:
  """Runs a pipeline to its end; Ctrl-C ends it everywhere.

  Raises:
    InputError: workers lack a module, or do not share the folder.
  """
  try:
    result = pipeline.run()
    try:
      result.wait_until_finish()
    except KeyboardInterrupt:
      result.cancel()
      raise
  except Exception as error:
    # Runners wrap the error of a worker in other text.
    text = ''.join(traceback.format_exception_only(error))
    if refused := re.search(_REFUSED, text, re.M):
      raise InputError(refused[1]) from None
    if lacks := re.search(_LACKING, text):
      raise InputError(
        f'a worker of Beam: {lacks[0]}; install dlrm_jax with all that it '
        'needs where the workers run'
      ) from None
    raise


def _await_outputs(name: str, units: Sequence[Any]) -> None:
  """Raises `InputError` if the workers' files do not appear here in time."""
  end = time.monotonic() + _PATIENCE
  while missing := undone(units):
    if time.monotonic() > end:
      raise InputError(
        f'{name}: the workers of Beam are done, but {missing[0].output} is not '
        'here; --output must be on a file system that all machines share'
      )
    time.sleep(1)


def _options(beam: Any, flags: str) -> Any:
  """The options of pipelines, after a try of the runner.

  Raises:
    InputError: an option is wrong.
  """
  printed = io.StringIO()
  try:
    with contextlib.redirect_stderr(printed):
      options = beam.options.pipeline_options.PipelineOptions(
        [*_OPTIONS, *flags.split()]
      )
      options.get_all_options()
      beam.Pipeline(options=options)
  except SystemExit:  # Raised by argparse.
    why = printed.getvalue().rsplit('error: ', 1)[-1].strip()
    raise InputError(f'--beam={flags!r}: {why}') from None
  except (ImportError, AttributeError, ValueError) as error:
    first = str(error).splitlines()[0]
    raise InputError(f'--beam={flags!r}: {first}') from None
  return options


def by_beam(flags: str, folder: Path) -> Stage:
  """A `Stage` that runs pipelines of Apache Beam.

  Args:
    flags: options of Beam and of its runner, as on a command line.
    folder: the work folder, which all machines share; it may be missing yet.

  Raises:
    InputError: Beam is not installed, or an option is wrong.
  """
  try:
    beam: Any = importlib.import_module('apache_beam')
  except ImportError:
    raise InputError(
      "--beam: Apache Beam is not installed; pip install 'apache-beam>=2.65'"
    ) from None
  options = _options(beam, flags)

  def stage(
    name: str, function: Callable[[Any], None], units: Sequence[Any]
  ) -> None:
    remaining = undone(units)
    progress = progress_bar(name, len(units), len(units) - len(remaining))
    with progress, _watched(progress, units):
      if not remaining:
        return
      path = folder / f'{name}.units'
      places = _keep(path, function, remaining)
      pipeline = beam.Pipeline(options=options)
      # Without a shuffle, runners fuse the steps, and one worker does all.
      elements = pipeline | beam.Create(places) | beam.Reshuffle()
      _ = elements | name >> beam.Map(_do)
      _run(pipeline)
      if refused := _error_file(path).read_text().strip():
        raise InputError(refused)
      _await_outputs(name, remaining)

  return stage
