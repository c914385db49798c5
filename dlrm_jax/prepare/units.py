"""Units of work whose output is a file: done where it exists, in any order.

A stage is a function and its units. Every unit writes its file under another
name and renames it last, so a file that is there is whole, a killed stage
goes on with the units that are left, and it does not matter who does a unit,
or whether two do. So a stage can be run here, by processes, or by a cluster.

After a loss of power, files can be cut that were never waited for. Waiting for
the disk at each of them makes the whole a tenth to a half slower; so units
know the sizes of their files, and `mend` finds those to be made again. Waited
for are shards, and encoded rows, since what they were made of is removed.
"""

import concurrent.futures
import contextlib
import errno
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from dlrm_jax.errors import InputError
from dlrm_jax.files import read_json, replacing


class Unit(Protocol):
  """A unit of work: a picklable tuple of what its function needs."""

  @property
  def output(self) -> Path:
    """The file that says that it is done."""
    ...

  def sound(self) -> bool:
    """Whether all that it made is whole, where its output is there."""
    ...


AnyUnit = TypeVar('AnyUnit', bound=Unit)
Stage = Callable[[str, Callable[[Any], None], Sequence[Any]], None]
"""Runs a named stage: a function of a module, and its units."""


def sizes_of(paths: Iterable[Path]) -> dict[str, int]:
  """Bytes of files by name, as the mark of a unit says them."""
  return {path.name: path.stat().st_size for path in paths}


def size_is(path: Path, size: int) -> bool:
  """Whether a file is there and has so many bytes."""
  return path.exists() and path.stat().st_size == size


def write_mark(path: Path, said: Mapping[str, Any]) -> None:
  """Writes what a unit says of its work, for `marked`."""
  with replacing(path, synced=False) as work:
    work.write_text(json.dumps(said, indent=1) + '\n')


def marked(mark: Path) -> dict[str, Any] | None:
  """What a unit's JSON file says; None where it is not whole.

  Args:
    mark: the file. `files` in it, if it is there, gives the bytes of files
      beside it, which must have them.
  """
  try:
    said = read_json(mark)
  except (OSError, ValueError):
    return None
  files = said.get('files', {}).items()
  whole = all(size_is(mark.parent / name, size) for name, size in files)
  return said if whole else None


def left(units: Sequence[AnyUnit]) -> list[AnyUnit]:
  """Those that are not done; every folder is listed once."""
  done = {
    path
    for folder in {unit.output.parent for unit in units}
    for path in folder.iterdir()
  }
  return [unit for unit in units if unit.output not in done]


def mend(units: Sequence[AnyUnit]) -> list[AnyUnit]:
  """Removes outputs of units that are not whole; the units that are left."""
  undone = {unit.output for unit in left(units)}
  for unit in units:
    if unit.output not in undone and not unit.sound():
      unit.output.unlink(missing_ok=True)
      undone.add(unit.output)
  return [unit for unit in units if unit.output in undone]


def bar(name: str, units: Sequence[AnyUnit], undone: int) -> tqdm:
  """Progress of a stage, on a terminal only; what was done before counts."""
  return tqdm(
    desc=name, total=len(units), initial=len(units) - undone, disable=None
  )


_FULL = re.compile(
  r'No space left|Not enough free space|\d+ requested and \d+ written'
)


@contextlib.contextmanager
def room(folder: Path) -> Iterator[None]:
  """A full disk is a user's mistake, whichever library meets it."""
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    # NumPy tells only how much it wrote, Polars and array_record only words.
    number = getattr(error, 'errno', None)
    if number not in (errno.ENOSPC, errno.EDQUOT) and not _FULL.search(
      str(error)
    ):
      raise
    raise InputError(
      f'{folder}: no space is left on the device; free some, and the same '
      'command goes on'
    ) from None


def do(function: Callable[[AnyUnit], None], unit: AnyUnit) -> None:
  """Does a unit unless somebody has."""
  if not unit.output.exists():
    with room(unit.output.parent):
      function(unit)


def here(
  name: str, function: Callable[[Any], None], units: Sequence[Any]
) -> None:
  """A `Stage` in this process, one unit after the other."""
  todo = left(units)
  with bar(name, units, len(todo)) as shown:
    for unit in todo:
      do(function, unit)
      shown.update()


def _begin(parent: int) -> None:
  """Leaves signals to the parent; ends when that has, however it came."""
  for number in (signal.SIGINT, signal.SIGHUP):  # SIGTERM is how a pool ends it
    signal.signal(number, signal.SIG_IGN)

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(0.5)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


_WORKER = {
  # Each worker is one core's: libraries must not start a thread a core.
  'POLARS_MAX_THREADS': '1',
  'OMP_NUM_THREADS': '1',
  # Arrays come and go: glibc keeps their memory for the next ones. Given back
  # and asked for again, page by page, it costs a third of the time.
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


def _run(
  pool: concurrent.futures.Executor,
  name: str,
  function: Callable[[Any], None],
  units: Sequence[Any],
) -> None:
  todo = left(units)
  with bar(name, units, len(todo)) as shown:
    waiting = [pool.submit(do, function, unit) for unit in todo]
    try:
      for future in concurrent.futures.as_completed(waiting):
        future.result()
        shown.update()
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
  """A `Stage` in so many processes, which end with this one."""
  with (
    _environment(_WORKER),
    concurrent.futures.ProcessPoolExecutor(
      workers,
      multiprocessing.get_context('spawn'),
      initializer=_begin,
      initargs=(os.getpid(),),
    ) as pool,
  ):
    yield lambda name, function, units: _run(pool, name, function, units)
