"""Units of work: a unit is done when its output file exists.

A stage is a function and its units, which can run in any order: in this
process, in worker processes, or on the machines of a cluster. A unit writes
its output under a temporary name and renames it at the end, so an output that
exists is whole. A killed stage continues with the units that have no output,
and a unit that two workers run at once does no harm.

A loss of power can cut files that were not synced. Syncing every file would
make `prepare` a tenth to a half slower; instead, units know the sizes of their
files, and `discard_broken` removes the outputs of units whose files are cut.
Only shards and encoded rows are synced, because their sources are deleted.
"""

import concurrent.futures
import contextlib
import errno
import json
import os
import re
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from dlrm_jax.errors import InputError
from dlrm_jax.files import read_json, replacing


class Unit(Protocol):
  """A unit of work: a picklable tuple of the arguments of its function."""

  @property
  def output(self) -> Path:
    """The file whose existence marks the unit as done."""
    ...

  def sound(self) -> bool:
    """Whether all files of the unit are whole, given that its output exists."""
    ...


AnyUnit = TypeVar('AnyUnit', bound=Unit)
Stage = Callable[[str, Callable[[Any], None], Sequence[Any]], None]
"""Runs a stage: its name, a function at the top of a module, and its units."""


def sizes_of(paths: Iterable[Path]) -> dict[str, int]:
  """Bytes of files by name, for the mark of a unit."""
  return {path.name: path.stat().st_size for path in paths}


def size_is(path: Path, size: int) -> bool:
  """Whether a file exists and has `size` bytes."""
  return path.exists() and path.stat().st_size == size


def write_mark(path: Path, notes: Mapping[str, Any]) -> None:
  """Writes the mark of a unit: a JSON file with notes on its work."""
  with replacing(path, synced=False) as work:
    work.write_text(json.dumps(notes, indent=1) + '\n')


def read_mark(path: Path) -> dict[str, Any] | None:
  """The notes of a unit; None if its mark or its files are not whole.

  Args:
    path: the mark. Its field `files`, if there is one, has the bytes of files
      beside it.
  """
  try:
    notes = read_json(path)
  except (OSError, ValueError):
    return None
  files = notes.get('files', {}).items()
  whole = all(size_is(path.parent / name, size) for name, size in files)
  return notes if whole else None


def undone(units: Sequence[AnyUnit]) -> list[AnyUnit]:
  """The units that have no output yet."""
  done = {
    path
    for folder in {unit.output.parent for unit in units}
    for path in folder.iterdir()
  }
  return [unit for unit in units if unit.output not in done]


def discard_broken(units: Sequence[AnyUnit]) -> list[AnyUnit]:
  """Removes outputs of units whose files are cut; returns all undone units."""
  outputs = {unit.output for unit in undone(units)}
  for unit in units:
    if unit.output not in outputs and not unit.sound():
      unit.output.unlink(missing_ok=True)
      outputs.add(unit.output)
  return [unit for unit in units if unit.output in outputs]


def progress_bar(name: str, total: int, done: int) -> tqdm:
  """Progress of a stage in units, shown on a terminal only."""
  return tqdm(desc=name, total=total, initial=done, disable=None)


_FULL = re.compile(
  r'No space left|Not enough free space|\d+ requested and \d+ written'
)


@contextlib.contextmanager
def refusing_full_disk(folder: Path) -> Iterator[None]:
  """Turns errors about a full disk, of any library, into an `InputError`."""
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    # NumPy has no error number but the bytes written; Polars and array_record
    # have only words.
    number = getattr(error, 'errno', None)
    if number not in (errno.ENOSPC, errno.EDQUOT) and not _FULL.search(
      str(error)
    ):
      raise
    raise InputError(
      f'{folder}: no space is left on the device; free some, and the same '
      'command goes on'
    ) from None


def do_unit(function: Callable[[AnyUnit], None], unit: AnyUnit) -> None:
  """Runs a unit, unless its output exists."""
  if not unit.output.exists():
    with refusing_full_disk(unit.output.parent):
      function(unit)


def in_process(
  name: str, function: Callable[[Any], None], units: Sequence[Any]
) -> None:
  """A `Stage` in this process, one unit after the other."""
  remaining = undone(units)
  with progress_bar(name, len(units), len(units) - len(remaining)) as progress:
    for unit in remaining:
      do_unit(function, unit)
      progress.update()


def _begin_worker(parent: int) -> None:
  """Ignores signals meant for the parent; exits when the parent has ended."""
  # Not SIGTERM, by which a pool ends its workers.
  for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(0.5)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


_WORKER = {
  # A worker has one core, so libraries must not start a thread for each core.
  'POLARS_MAX_THREADS': '1',
  'OMP_NUM_THREADS': '1',
  # glibc keeps the memory of freed arrays for the next ones. Returning it to
  # the kernel and requesting it again, page by page, takes a third of the time.
  'MALLOC_MMAP_THRESHOLD_': str(1 << 30),
  'MALLOC_TRIM_THRESHOLD_': str(1 << 30),
  'MALLOC_TOP_PAD_': str(1 << 26),
}


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
  before = {name: os.environ.get(name) for name in values}
  os.environ.update(values)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value


@contextlib.contextmanager
def _empty_main() -> Iterator[None]:
  """Context in which the module `__main__` is empty."""
  main = sys.modules['__main__']
  sys.modules['__main__'] = types.ModuleType('__main__')
  try:
    yield
  finally:
    sys.modules['__main__'] = main


_STARTING = threading.Lock()  # of the environment and of `__main__`


class _Worker(SpawnProcess):
  """A worker process.

  A spawned process runs the program of its parent, `__main__`, under another
  name, for objects that are defined there. Units have none of them, and a
  script without `if __name__ == '__main__'` would prepare its set once more in
  each worker. So `__main__` is empty while a worker starts.
  """

  def start(self) -> None:
    """Starts the process."""
    with _STARTING, _environment(_WORKER), _empty_main():
      super().start()


class _Context(SpawnContext):
  Process = _Worker


def _run_in(
  pool: concurrent.futures.Executor,
  name: str,
  function: Callable[[Any], None],
  units: Sequence[Any],
) -> None:
  remaining = undone(units)
  with progress_bar(name, len(units), len(units) - len(remaining)) as progress:
    waiting = [pool.submit(do_unit, function, unit) for unit in remaining]
    try:
      for future in concurrent.futures.as_completed(waiting):
        future.result()
        progress.update()
    except BrokenProcessPool:
      raise InputError(
        f'{name}: a worker was killed, maybe for want of memory; give a '
        'smaller --memory, the same command goes on'
      ) from None
    finally:
      for future in waiting:
        future.cancel()


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Stage]:
  """A `Stage` in worker processes, which end with this one."""
  with concurrent.futures.ProcessPoolExecutor(
    workers, _Context(), initializer=_begin_worker, initargs=(os.getpid(),)
  ) as pool:
    yield lambda name, function, units: _run_in(pool, name, function, units)
