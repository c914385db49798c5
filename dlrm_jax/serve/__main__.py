r"""Serves models by the Open Inference Protocol (KServe v2), HTTP and gRPC.

  python -m dlrm_jax.serve --model=ctr=models/kaggle
  python -m dlrm_jax.serve --model=ctr=models/kaggle --model=ads=runs/avazu \
    --host=0.0.0.0 --token_file=token

DIR is an export or a workdir; or it has folders 1, 2, ... of them, the versions
of the model, of which the greatest is the default. Any client of Triton can
ask; http://127.0.0.1:8000 is a page for people. SIGHUP loads again what has
changed; SIGTERM answers what was taken, and ends.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlrm_jax.errors import exit_cleanly, heard
from dlrm_jax.serve import flags as read
from dlrm_jax.serving.token import read_token

if TYPE_CHECKING:
  from dlrm_jax.serving.log import Log
  from dlrm_jax.serving.server import Running, Settings


_SWITCH = 5e-4  # seconds after which Python lets another thread run


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Serves until a signal comes."""
  flags = read.parser_of(__doc__).parse_args(argv)
  models = read.models_of(flags.model)
  limits, max_body = read.limits_of(flags), read.max_body_of(flags)
  read.check_ports(flags)
  tls, token = read.tls_of(flags), read_token(flags.token_file)
  read.check_installed()
  # The log has lines of JSON alone; what gRPC would write is told there, too.
  os.environ.setdefault('GRPC_VERBOSITY', 'NONE')
  import jax

  from dlrm_jax.program_cache import keep_programs
  from dlrm_jax.serving.log import Log
  from dlrm_jax.serving.security import Security, Tls
  from dlrm_jax.serving.server import Settings

  keep_programs()
  # The thread that has scored waits for the one that reads requests.
  sys.setswitchinterval(_SWITCH)
  # A call is over when it returns, which saves two switches of threads.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  security = Security(None if tls is None else Tls(*tls), token)
  settings = Settings(
    *(models, flags.host, flags.http, flags.grpc, limits, max_body, security)
  )
  log = Log()
  with log.of_libraries(), asyncio.Runner(loop_factory=_loop) as runner:
    done = runner.run(_serve(settings, log))
  if done:
    return
  sys.stdout.flush()  # a thread still compiles, and would not end
  os._exit(0)


def _loop() -> asyncio.AbstractEventLoop:
  """An event loop, that of libuv where it is installed: it is faster."""
  try:
    import uvloop
  except ImportError:
    return asyncio.new_event_loop()
  return uvloop.new_event_loop()


async def _serve(settings: 'Settings', log: 'Log') -> bool:
  """Serves until a signal comes; returns whether no thread is at work."""
  from dlrm_jax.serving.server import running

  loop, end = asyncio.get_running_loop(), asyncio.Event()
  async with running(settings, log) as server:
    repository = server.service.repository
    reloads: set[asyncio.Task] = set()

    def reload() -> None:
      task = loop.create_task(repository.reload_all())
      reloads.add(task)
      task.add_done_callback(reloads.discard)

    for number in heard(signal.SIGTERM, signal.SIGINT):
      loop.add_signal_handler(number, end.set)
    for number in heard(signal.SIGHUP):
      loop.add_signal_handler(number, reload)
    print(*_addresses(settings, server), sep='\n', flush=True)
    ending = asyncio.create_task(end.wait())
    loading = asyncio.create_task(_load(server))
    await asyncio.wait({ending, loading}, return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
      loading.result()  # raises what went wrong
      await ending
    log('ending')
    loading.cancel()
  log('ended')
  return not repository.opening


def _addresses(settings: 'Settings', server: 'Running') -> list[str]:
  """What a server says before its models are loaded."""
  from dlrm_jax.serving.security import is_loopback
  from dlrm_jax.text import human

  limits, security = settings.limits, settings.security
  s = '' if security.tls is None else 's'
  host = f'[{settings.host}]' if ':' in settings.host else settings.host
  lines = [
    f'HTTP at http{s}://{host}:{server.http}, gRPC at '
    f'grpc{s}://{host}:{server.grpc}'
    f'{", with a token" if security.token else ""}',
    f'batches of at most {limits.max_batch:,} rows, joined within '
    f'{limits.max_delay * 1e3:g} ms; at most {limits.max_queue_rows:,} rows of '
    f'a model wait; bodies of at most {human(settings.max_body)}',
  ]
  if not security.token and not is_loopback(settings.host):
    lines.append(
      f'whoever reaches {settings.host} may load and unload models, as there '
      'is no token (--token_file)'
    )
  return lines


async def _load(server: 'Running') -> None:
  """Loads all models, and says what became of each.

  Raises:
    InputError: none can be loaded.
  """
  from dlrm_jax.errors import InputError
  from dlrm_jax.serving.refusal import RefusedError

  repository = server.service.repository
  failed: dict[str, Exception] = {}
  for name in repository.names:
    try:
      await repository.load(name)
    except (InputError, RefusedError) as error:
      failed[name] = error
      print(f'{name} is not served: {error}', flush=True)
    for version in repository.served(name):
      print(version.describe(), flush=True)
  if len(failed) == len(repository.names):
    raise InputError(f'no model can be served: {next(iter(failed.values()))}')
  print(
    f'not ready, for want of {", ".join(failed)}' if failed else 'ready',
    flush=True,
  )


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
