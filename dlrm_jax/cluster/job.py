"""A job of several processes: how they find each other and end together.

Every process runs the same program on its own part of every batch; process 0
also prints and writes the logs. A command runs all of its work within
`joined`. Without flags there is one process, and `joined` does nothing.

If one process dies, the others exit. A collective whose peer died fails
(gloo) or hangs; the watch of `cluster.watch` ends processes that hang. It does
not see a host that loses its power: then JAX's coordination service ends the
others after `_HEARTBEAT` seconds without a sign of life.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import jax

from dlrm_jax.cluster import agreement, watch
from dlrm_jax.errors import UNDONE, InputError, number_of, status_of

_HEARTBEAT = 30  # seconds
_LAST_WORDS = 2  # seconds
# The main thread and the watch may both want to end this process; only the
# first one prints its message.
_LEAVING = threading.Lock()
_LOST = re.compile(
  '(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED): (.*)'
)


class JobFlags(NamedTuple):
  """The flags that describe a job.

  Attributes:
    distributed: whether JAX finds the other processes by itself.
    coordinator: HOST:PORT of process 0, on which it listens.
    processes: number of processes.
    process: number of this process, from 0 on.
    wait: seconds to wait until all processes are there.
  """

  distributed: bool = False
  coordinator: str | None = None
  processes: int | None = None
  process: int | None = None
  wait: int = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `JobFlags` to a parser."""
  add = parser.add_argument
  add(
    '--distributed',
    action='store_true',
    help='join the other processes of a cluster that JAX knows: Slurm, Open '
    'MPI, Kubernetes, Cloud TPU',
  )
  add(
    '--coordinator',
    metavar='HOST:PORT',
    help='address of process 0, where JAX does not know the cluster',
  )
  add(
    '--processes',
    type=int,
    metavar='N',
    help='with --coordinator: number of processes',
  )
  add(
    '--process',
    type=int,
    metavar='K',
    help='with --coordinator: number of this process, from 0 on',
  )
  add(
    '--wait',
    type=int,
    default=JobFlags().wait,
    metavar='SECONDS',
    help='how long to wait for all processes (default: %(default)s)',
  )


def _leave(message: str, status: int = 1) -> NoReturn:
  """Ends this process without waiting for the others, which may hang."""
  sys.stdout.flush()
  print(message, file=sys.stderr, flush=True)
  os._exit(status)


@contextlib.contextmanager
def exiting_on_error() -> Iterator[None]:
  """Context in which an error ends this process, and thereby the others.

  Objects that wait for the other processes when they close (checkpoints) must
  be opened outside of this context.
  """
  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1:
      raise
    with _LEAVING:
      message = _last_message(error)
      if agreement.first():
        # JAX aborts the others when process 0 ends: let them print first.
        time.sleep(_LAST_WORDS)
      if isinstance(error, KeyboardInterrupt):
        _leave(message, status_of(number_of(error)))
      _leave(message)


def _lost(process: int) -> None:
  """Ends this process because another one died."""
  message = _peer_gone(f'process {process} is gone')
  if agreement.first():
    # The same error may reach the main thread, with a better message.
    time.sleep(_LAST_WORDS)
    message = '\n' + message  # a progress bar may stand on the line
  with _LEAVING:
    _leave(message)


def _peer_gone(reason: str) -> str:
  return (
    f'error: process {jax.process_index()}: another process of this job has '
    f'ended or is out of reach; its log says why. Start the job again: it '
    f'goes on from the last checkpoint ({reason[:160]})'
  )


def _last_message(error: BaseException) -> str:
  text = str(error).strip()
  if isinstance(error, InputError):
    return f'error: {text}'
  if isinstance(error, KeyboardInterrupt):
    return f'{signal.Signals(number_of(error)).name}: {UNDONE}'
  # A lost peer is a RuntimeError or ValueError of JAX, or a TimeoutError of
  # Orbax, whose barrier was not reached.
  lost = (
    _LOST.match(text) if isinstance(error, RuntimeError | ValueError) else None
  )
  if lost or isinstance(error, TimeoutError):
    return _peer_gone(lost[2] if lost else text)
  return ''.join(traceback.format_exception(error)).rstrip()


def _checked(flags: JobFlags) -> JobFlags:
  """Returns the flags; raises `InputError` where they contradict each other."""
  _, coordinator, processes, process, wait = flags
  if wait < 0:
    raise InputError(f'--wait={wait}: expected 0 or more')
  given = [x for x in (coordinator, processes, process) if x is not None]
  if given and len(given) < 3:
    raise InputError(
      '--coordinator=HOST:PORT, --processes=N and --process=K go together; '
      'where JAX knows the cluster, --distributed alone'
    )
  if coordinator is None or processes is None or process is None:
    return flags
  if flags.distributed:
    raise InputError(
      '--distributed and --coordinator: expected one of them; --distributed '
      'is for clusters that JAX knows'
    )
  host, port = _host_and_port(coordinator)
  if not (host and port.isdecimal()):
    raise InputError(f'--coordinator={coordinator}: expected HOST:PORT')
  if not 0 < int(port) < 2**16:
    raise InputError(
      f'--coordinator={coordinator}: port {port}; expected 1 to 65535'
    )
  if processes < 1:
    raise InputError(f'--processes={processes}: expected 1 or more')
  if not 0 <= process < processes:
    raise InputError(
      f'--process={process}: expected 0 to {processes - 1}, one less than '
      f'--processes={processes}'
    )
  return flags


def _host_and_port(coordinator: str) -> tuple[str, str]:
  host, _, port = coordinator.rpartition(':')
  return host.strip('[]'), port


def _answers(coordinator: str) -> bool:
  host, port = _host_and_port(coordinator)
  try:
    socket.create_connection((host, int(port)), 5).close()
  except OSError:
    return False
  return True


def _absent(flags: JobFlags) -> str:
  coordinator, wait = flags.coordinator, flags.wait
  if coordinator and flags.process and not _answers(coordinator):
    return (
      f'error: no process 0 at --coordinator={coordinator}: nothing answers '
      f'there in {wait} seconds (--wait)'
    )
  return (
    f'error: not all {flags.processes or ""} processes of this job came in '
    f'{wait} seconds (--wait); each needs its own --process and the same '
    f'--coordinator and --processes, or --distributed in a cluster'
  )


def _initialize(flags: JobFlags) -> None:
  """Returns when all processes are there."""
  # This gives up before JAX does, which would abort with a C++ stack trace.
  # Process 0 gives up last, since its end aborts the others.
  patience = flags.wait * (1.0 if flags.process else 1.1)
  listening = signal.getsignal(signal.SIGTERM)
  timer = threading.Timer(patience, lambda: _leave(_absent(flags)))
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      flags.coordinator,
      flags.processes,
      flags.process,
      initialization_timeout=10 * flags.wait + 60,
      heartbeat_timeout_seconds=_HEARTBEAT,
    )
  except (ValueError, RuntimeError) as error:
    line = str(error).strip().splitlines()[0]
    if flags.coordinator:
      raise InputError(
        f'--coordinator={flags.coordinator}: {line}; a free port of the host '
        f'of process 0 is needed'
      ) from None
    raise InputError(
      f'--distributed: JAX knows no cluster here ({line}); name it: '
      f'--coordinator=HOST:PORT --processes=N --process=K'
    ) from None
  finally:
    timer.cancel()
  # JAX has installed a handler of SIGTERM; put back the earlier one.
  signal.signal(signal.SIGTERM, listening)


@contextlib.contextmanager
def joined(flags: argparse.Namespace) -> Iterator[None]:
  """Context in which this process is part of its job; only process 0 prints.

  Args:
    flags: flags of the command, those of `JobFlags` among them.

  Raises:
    InputError: the flags contradict each other, or JAX finds no cluster.
      Where another process does not appear in time, this process ends with a
      message.
  """
  job = _checked(JobFlags(*(getattr(flags, f) for f in JobFlags._fields)))
  if not (job.distributed or job.coordinator):
    yield
    return
  _initialize(job)
  host = socket.gethostname()
  if job.coordinator:
    host, _ = _host_and_port(job.coordinator)
  with contextlib.ExitStack() as stack:
    stack.enter_context(exiting_on_error())
    stack.enter_context(watch.watched(host, _lost))
    if not agreement.first():
      null = stack.enter_context(open(os.devnull, 'w'))
      stack.enter_context(contextlib.redirect_stdout(null))
    yield
    jax.distributed.shutdown()
