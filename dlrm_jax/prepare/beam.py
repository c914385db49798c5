"""Units done by Apache Beam: with any of its runners, on many machines.

A stage is a pipeline whose elements say which units are left. A worker does
one as a process of this machine would, by the same function, and leaves the
same file in the folder of the work, which all machines share. So the result
does not depend on the runner, and a pipeline that was stopped goes on.
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
from dlrm_jax.prepare.units import Stage, bar, do, left

_OPTIONS = (
  # What workers tell of a failure is in the error that comes back.
  '--default_sdk_harness_log_level=CRITICAL',
  # Each unit may take all the memory that a worker has.
  '--number_of_worker_harness_threads=1',
)
"""Where the user's say nothing else."""

_PATIENCE = 90
"""Seconds; clients of NFS look for new files once a minute."""

_TOLD = r'dlrm_jax\.errors\.InputError: (.*?)(?: \[while running .*)?$'
_LACKS = r"No module named '[^']*'"

_ROOM = 4096
"""Bytes for a message, taken before a disk can be full."""

Place = tuple[str, int, int]
"""Where a unit is pickled: file, first byte, bytes."""


def _wrong(path: str | Path) -> Path:
  """The file for the first mistake, beside the file of the units."""
  return Path(f'{path}.wrong')


def _keep(
  path: Path, function: Callable[[Any], None], units: Sequence[Any]
) -> list[Place]:
  """Writes units for the workers; a pipeline has no room for all of them."""
  _wrong(path).write_text(' ' * _ROOM)
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
  """Does a unit in a worker, unless something was wrong already."""
  # Runners start a worker a core. Polars reads this once, when it is loaded.
  os.environ.setdefault('POLARS_MAX_THREADS', '1')
  path, start, length = place
  try:
    wrong = _wrong(path).open('rb+')
  except FileNotFoundError as error:
    raise _absent(error) from None
  with wrong:
    if wrong.read().strip():
      return
    with open(path, 'rb') as file:
      file.seek(start)
      function, unit = pickle.loads(file.read(length))
    try:
      do(function, unit)
    except (InputError, FileNotFoundError) as error:
      if unit.output.exists():  # twice at once: the other has cleaned up
        return
      # Not raised: runners would try again, and log a page each time.
      told = error if isinstance(error, InputError) else _absent(error)
      wrong.seek(0)
      wrong.write(str(told).encode()[:_ROOM].ljust(_ROOM))


@contextlib.contextmanager
def _watched(shown: tqdm, units: Sequence[Any]) -> Iterator[None]:
  """Shows what is done while the body runs: runners tell it in no one way."""
  ended = threading.Event()

  def watch() -> None:
    while not ended.wait(2):
      shown.update(len(units) - len(left(units)) - shown.n)

  watcher = threading.Thread(target=watch, daemon=True)
  if not shown.disable:
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
    # Runners hand on what a worker raised inside of other text.
    text = ''.join(traceback.format_exception_only(error))
    if told := re.search(_TOLD, text, re.M):
      raise InputError(told[1]) from None
    if lacks := re.search(_LACKS, text):
      raise InputError(
        f'a worker of Beam: {lacks[0]}; install dlrm_jax with all that it '
        'needs where the workers run'
      ) from None
    raise


def _check(name: str, units: Sequence[Any]) -> None:
  """Raises `InputError` where the workers' files do not arrive here."""
  end = time.monotonic() + _PATIENCE
  while missing := left(units):
    if time.monotonic() > end:
      raise InputError(
        f'{name}: the workers of Beam are done, but {missing[0].output} is not '
        'here; --output must be on a file system that all machines share'
      )
    time.sleep(1)


def _options(beam: Any, flags: str) -> Any:
  """The options of pipelines; the runner is tried now, not hours later."""
  options = beam.options.pipeline_options.PipelineOptions
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      made = options([*_OPTIONS, *flags.split()])
      made.get_all_options()
      beam.Pipeline(options=made)
  except SystemExit:  # by argparse
    why = said.getvalue().rsplit('error: ', 1)[-1].strip()
    raise InputError(f'--beam={flags!r}: {why}') from None
  except (ImportError, AttributeError, ValueError) as error:
    first = str(error).splitlines()[0]
    raise InputError(f'--beam={flags!r}: {first}') from None
  return made


def running(flags: str, folder: Path) -> Stage:
  """A `Stage` by pipelines of Apache Beam.

  Args:
    flags: options of Beam and of its runner, as on a command line.
    folder: of the work, which all machines share; it need not be there yet.

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
    todo = left(units)
    with bar(name, units, len(todo)) as shown, _watched(shown, units):
      if not todo:
        return
      path = folder / f'{name}.units'
      places = _keep(path, function, todo)
      pipeline = beam.Pipeline(options=options)
      # Without a shuffle, runners fuse the steps, and one worker does all.
      made = pipeline | beam.Create(places) | beam.Reshuffle()
      _ = made | name >> beam.Map(_do)
      _run(pipeline)
      if told := _wrong(path).read_text().strip():
        raise InputError(told)
      _check(name, todo)

  return stage
