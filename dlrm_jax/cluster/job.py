"""A job of several processes: how they find each other, and end together.

Every process runs the same program on its own part of every batch; process 0
also prints and writes the logs. `joined` around everything that a command
does is all there is to set up. Without flags there is one process, and
nothing happens here.

Who dies takes the others along. A collective that lost a peer fails (gloo) or
hangs; who hangs is ended by the watch of `peers`. What that cannot see, a host
without power, JAX's coordination service finds when a process has not been
heard of for `_HEARTBEAT` seconds.
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
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import jax
from absl import flags

from dlrm_jax.cluster import agreement, watch
from dlrm_jax.errors import UNDONE, InputError, number_of, status_of

_HEARTBEAT = 30  # seconds
_LAST_WORDS = 2  # seconds
# Whoever ends this process first, main thread or watch, has the only word.
_LEAVING = threading.Lock()
_LOST = re.compile(
  '(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED): (.*)'
)


class Options(NamedTuple):
  """What a user says of the cluster: the flags, by name.

  Attributes:
    distributed: whether JAX finds the other processes by itself.
    coordinator: HOST:PORT of process 0, on which it listens.
    processes: how many there are.
    process: the number of this one, from 0 on.
    wait: seconds until all must have come.
  """

  distributed: bool = False
  coordinator: str | None = None
  processes: int | None = None
  process: int | None = None
  wait: int = 300


_HELP = {
  'distributed': 'Join the other processes of a cluster that JAX knows: Slurm, '
  'Open MPI, Kubernetes, Cloud TPU.',
  'coordinator': 'HOST:PORT of process 0, where JAX does not know the cluster.',
  'processes': 'With --coordinator: how many processes there are.',
  'process': 'With --coordinator: the number of this process, from 0 on.',
  'wait': 'Seconds to wait for all processes to come.',
}


def define_flags() -> None:
  """Defines the fields of `Options` as absl's flags."""
  for name, default in Options._field_defaults.items():
    if name == 'distributed':
      flags.DEFINE_bool(name, default, _HELP[name])
    elif name == 'coordinator':
      flags.DEFINE_string(name, default, _HELP[name])
    else:
      flags.DEFINE_integer(name, default, _HELP[name], lower_bound=0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the fields of `Options` to a parser."""
  for name, default in Options._field_defaults.items():
    if name == 'distributed':
      parser.add_argument(f'--{name}', action='store_true', help=_HELP[name])
    else:
      kind = str if name == 'coordinator' else int
      parser.add_argument(
        f'--{name}', type=kind, default=default, help=_HELP[name]
      )


def _leave(message: str, status: int = 1) -> NoReturn:
  """Ends this process now: to wait for the others could be for ever."""
  sys.stdout.flush()
  print(message, file=sys.stderr, flush=True)
  os._exit(status)


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
  """Within it, an error ends this process, and so the others that wait for it.

  What closes on an error by waiting for the other processes (checkpoints) is
  opened around this.
  """
  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1:
      raise
    with _LEAVING:
      message = _farewell(error)
      if agreement.first():
        # Its end makes JAX abort the others: they have their last word before.
        time.sleep(_LAST_WORDS)
      if isinstance(error, KeyboardInterrupt):
        _leave(message, status_of(number_of(error)))
      _leave(message)


def _lost(process: int) -> None:
  """Ends this process because another one died."""
  message = _alone(f'process {process} is gone')
  if agreement.first():
    # The error that ended the other may come here too, and says more.
    time.sleep(_LAST_WORDS)
    message = '\n' + message  # a bar of progress may stand in the line
  with _LEAVING:
    _leave(message)


def _alone(reason: str) -> str:
  return (
    f'error: process {jax.process_index()}: another process of this job has '
    f'ended or is out of reach; its log says why. Start the job again: it '
    f'goes on from the last checkpoint ({reason[:160]})'
  )


def _farewell(error: BaseException) -> str:
  text = str(error).strip()
  if isinstance(error, InputError):
    return f'error: {text}'
  if isinstance(error, KeyboardInterrupt):
    return f'{signal.Signals(number_of(error)).name}: {UNDONE}'
  # JAX raises the status of its runtime in more than one way; Orbax, that
  # nobody came to a barrier.
  lost = (
    _LOST.match(text) if isinstance(error, RuntimeError | ValueError) else None
  )
  if lost or isinstance(error, TimeoutError):
    return _alone(lost[2] if lost else text)
  return ''.join(traceback.format_exception(error)).rstrip()


def _checked(options: Options) -> Options:
  """Raises `InputError` where the flags do not fit together."""
  _, coordinator, processes, process, _ = options
  given = [x for x in (coordinator, processes, process) if x is not None]
  if given and len(given) < 3:
    raise InputError(
      '--coordinator=HOST:PORT, --processes=N and --process=K go together; '
      'where JAX knows the cluster, --distributed alone'
    )
  if coordinator is None or processes is None or process is None:
    return options
  if options.distributed:
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
  return options


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


def _absent(options: Options) -> str:
  coordinator, wait = options.coordinator, options.wait
  if coordinator and options.process and not _answers(coordinator):
    return (
      f'error: no process 0 at --coordinator={coordinator}: nothing answers '
      f'there in {wait} seconds (--wait)'
    )
  return (
    f'error: not all {options.processes or ""} processes of this job came in '
    f'{wait} seconds (--wait); each needs its own --process and the same '
    f'--coordinator and --processes, or --distributed in a cluster'
  )


def _initialize(options: Options) -> None:
  """Returns when all processes are there."""
  # JAX would abort with a stack of C++, so this gives up before JAX does, and
  # process 0 last, as its end ends the others.
  patience = options.wait * (1.0 if options.process else 1.1)
  listening = signal.getsignal(signal.SIGTERM)
  timer = threading.Timer(patience, lambda: _leave(_absent(options)))
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      options.coordinator,
      options.processes,
      options.process,
      initialization_timeout=10 * options.wait + 60,
      heartbeat_timeout_seconds=_HEARTBEAT,
    )
  except (ValueError, RuntimeError) as error:
    line = str(error).strip().splitlines()[0]
    if options.coordinator:
      raise InputError(
        f'--coordinator={options.coordinator}: {line}; a free port of the host '
        f'of process 0 is needed'
      ) from None
    raise InputError(
      f'--distributed: JAX knows no cluster here ({line}); name it: '
      f'--coordinator=HOST:PORT --processes=N --process=K'
    ) from None
  finally:
    timer.cancel()
  # JAX notes SIGTERM for a service of its own, and nothing else would come.
  signal.signal(signal.SIGTERM, listening)


@contextlib.contextmanager
def joined(values: Mapping[str, Any]) -> Iterator[None]:
  """Within it this process is one of a job; only process 0 prints.

  Args:
    values: of all flags of a command, by name; those of `Options` are read.

  Raises:
    InputError: the flags do not fit together, or JAX finds no cluster. Where
      a process does not come, this one ends with a message.
  """
  options = _checked(Options(**{k: values[k] for k in Options._fields}))
  if not (options.distributed or options.coordinator):
    yield
    return
  _initialize(options)
  host = socket.gethostname()
  if options.coordinator:
    host, _ = _host_and_port(options.coordinator)
  with contextlib.ExitStack() as stack:
    stack.enter_context(leaving_at_once())
    stack.enter_context(watch.watched(host, _lost))
    if not agreement.first():
      nowhere = stack.enter_context(open(os.devnull, 'w'))
      stack.enter_context(contextlib.redirect_stdout(nowhere))
    yield
    jax.distributed.shutdown()
