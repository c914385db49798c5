"""Commands of the project, as a user types them, in processes of their own.

The processes are forked from a server that has imported what commands import
(`tests.imported`), which takes seconds each time, and has used none of it: no
backend of JAX, no pool of threads. What belongs to the start of Python itself
is tested with `subprocess`.
"""

import multiprocessing
import os
import pathlib
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATIENCE = 300  # seconds, on a busy machine
_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(['tests.imported'])


class Done(NamedTuple):
  """How a command ended; a signal that killed it is a negative status."""

  status: int
  stdout: str
  stderr: str


def _become(
  arguments: list[str],
  folder: pathlib.Path,
  environment: dict[str, str],
  output: pathlib.Path,
  before: Callable[[], None],
) -> None:
  """Runs in the forked process, which ends with the status of the command."""
  import jax

  os.environ.clear()
  os.environ.update(environment)
  jax.config.update('jax_platforms', environment['JAX_PLATFORMS'])
  os.chdir(folder)
  for number, name in ((1, 'stdout'), (2, 'stderr')):
    file = os.open(output / name, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, number)
    os.close(file)
  before()
  if arguments[0] == '-m':
    sys.argv = arguments[1:]
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
  elif arguments[0] == '-c':
    sys.argv = ['-c', *arguments[2:]]
    exec(arguments[1], {'__name__': '__main__'})
  else:
    sys.argv = arguments
    runpy.run_path(sys.argv[0], run_name='__main__')


def _nothing() -> None:
  pass


def wait_until(happened: Callable[[], object], *commands: 'Command') -> None:
  """Returns as soon as `happened()` is true, while all of some commands run."""
  end = time.monotonic() + PATIENCE
  while not happened():
    for command in commands:
      assert command.running(), command.end()
    assert time.monotonic() < end, 'it did not happen'
    time.sleep(0.005)


def checkpoints(workdir: pathlib.Path) -> set[int]:
  """Steps of the checkpoints in a workdir."""
  folder = workdir / 'checkpoints'
  names = os.listdir(folder) if folder.exists() else []
  return {int(name) for name in names if name.isdigit()}


def wait_for_checkpoint(workdir: pathlib.Path, *commands: 'Command') -> None:
  """Returns as soon as there is one more checkpoint than now."""
  known = checkpoints(workdir)
  wait_until(lambda: checkpoints(workdir) - known, *commands)


def devices(count: int) -> dict[str, str]:
  """Variables of a command that has so many devices."""
  flag = f'--xla_force_host_platform_device_count={count}'
  return {'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {flag}'}


def signal_itself(number: int, step: int) -> None:
  """Makes this process send itself a signal before it saves a checkpoint.

  All checkpoints before are complete then.

  Args:
    number: of the signal. SIGSTOP keeps the process from ending before the
      test has done what it wants to do to it.
    step: of the checkpoint.
  """
  from dlrm_jax.checkpoint.checkpoints import Checkpoints

  save = Checkpoints.save

  def signalling(self: Checkpoints, at: int, *rest: Any) -> None:
    if at == step:
      self.wait()
      os.kill(os.getpid(), number)
    save(self, at, *rest)

  mock.patch.object(Checkpoints, 'save', signalling).start()


def stop_before_the_end() -> None:
  """Makes `prepare` stop, as by SIGSTOP, when only a rename is left to do."""
  from dlrm_jax.prepare import work

  publish = work.publish

  def stopping(*paths: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    publish(*paths)

  mock.patch.object(work, 'publish', stopping).start()


class Command:
  """A command that runs; at the end of a `with` it is killed.

  Attributes:
    stdout: file that it writes to.
    stderr: likewise.
  """

  def __init__(
    self,
    arguments: Iterable[object],
    folder: pathlib.Path = ROOT,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], None] = _nothing,
  ) -> None:
    """Starts a command.

    Args:
      arguments: those of Python: a script, `-m` and a module, or `-c` and code.
      folder: the working directory.
      environment: variables, beside those of this process.
      before: called in the new process before the command; can be pickled.
    """
    self._output = tempfile.TemporaryDirectory()
    output = pathlib.Path(self._output.name)
    self.stdout, self.stderr = output / 'stdout', output / 'stderr'
    self.stdout.touch()
    self.stderr.touch()
    self._process = _CONTEXT.Process(
      target=_become,
      args=(
        [str(x) for x in arguments],
        folder,
        dict(os.environ) | dict(environment or {}),
        output,
        before,
      ),
    )
    self._process.start()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    self._process.kill()
    self._process.join()
    self._output.cleanup()

  def running(self) -> bool:
    """Whether the process has not ended."""
    return self._process.exitcode is None

  def send(self, number: int) -> None:
    """Sends a signal to the process, which must still run."""
    assert self.running(), self.end()
    os.kill(self._process.pid, number)

  def kill(self) -> None:
    """Kills the process, which must still run."""
    self.send(signal.SIGKILL)
    self._process.join()

  def end(self) -> Done:
    """Waits for the end; a command that takes too long is killed."""
    self._process.join(PATIENCE)
    self._process.kill()
    self._process.join()
    return Done(
      self._process.exitcode, self.stdout.read_text(), self.stderr.read_text()
    )


def run(
  arguments: Iterable[object],
  status: int = 0,
  folder: pathlib.Path = ROOT,
  environment: Mapping[str, str] | None = None,
) -> Done:
  """Runs a command to its end, which must have this status."""
  with Command(arguments, folder, environment) as command:
    done = command.end()
  assert done.status == status, done
  return done
