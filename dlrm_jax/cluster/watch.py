"""Who dies is noticed at once: every process holds a connection to process 0.

Nothing is said on it but a farewell at the end. The system closes the
connections of a process that dies, whatever it was doing, and a thread at the
other end only waits for that: also while the main thread of its process waits
in a collective, or for a checkpoint. Of a host that loses its power nothing
comes; JAX's heartbeat is there for that.
"""

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from dlrm_jax.cluster import agreement

_WELCOME, _FAREWELL = b'w', b'f'
_PATIENCE = 10  # seconds, to be connected


class _Watch(NamedTuple):
  """What the threads of this process share.

  Attributes:
    token: who connects says it, so strangers are not taken for processes.
    lost: called with the number of a process that died.
    connections: to the processes that are watched.
    over: set as soon as the others may go.
  """

  token: str
  lost: Callable[[int], None]
  connections: list[socket.socket]
  over: threading.Event


def _received(connection: socket.socket, size: int) -> bytes:
  """So many bytes, or fewer from one who is gone."""
  with contextlib.suppress(OSError):
    return connection.recv(size, socket.MSG_WAITALL)
  return b''


def _wait(watch: _Watch, connection: socket.socket, process: int) -> None:
  """Waits for the end of a process."""
  if _received(connection, 1) != _FAREWELL and not watch.over.is_set():
    watch.lost(process)


def _receive(watch: _Watch, connection: socket.socket) -> None:
  """Lets one process in, and waits for its end; strangers are sent off."""
  hello = _hello(watch.token, 0)
  said = _received(connection, len(hello))
  token, _, process = said.decode(errors='replace').partition(' ')
  if not secrets.compare_digest(token.encode(), watch.token.encode()):
    connection.close()
    return
  watch.connections.append(connection)
  with contextlib.suppress(OSError):
    connection.sendall(_WELCOME)
  _wait(watch, connection, int(process))


def _hello(token: str, process: int) -> bytes:
  return f'{token} {process:08}'.encode()


def _start(function: Callable[..., None], *args: object) -> None:
  threading.Thread(target=function, args=args, daemon=True).start()


def _accept(watch: _Watch, listener: socket.socket) -> None:
  while True:
    _start(_receive, watch, listener.accept()[0])


def _listener() -> socket.socket:
  """Listens on a free port of every address of this host."""
  if socket.has_dualstack_ipv6():
    return socket.create_server(
      ('', 0), family=socket.AF_INET6, dualstack_ipv6=True
    )
  return socket.create_server(('', 0))


def _connect(watch: _Watch, host: str, port: int) -> None:
  connection = socket.create_connection((host, port), _PATIENCE)
  connection.sendall(_hello(watch.token, jax.process_index()))
  if _received(connection, 1) == _WELCOME:
    connection.settimeout(None)
    watch.connections.append(connection)
    _start(_wait, watch, connection, 0)


@contextlib.contextmanager
def watched(host: str, lost: Callable[[int], None]) -> Iterator[None]:
  """Within it the end of another process is noticed; all come here, or none.

  Process 0 watches all, the others watch process 0. A process that cannot
  connect goes on without. Leave it without an error only when all processes
  have done their work.

  Args:
    host: where the others reach process 0; only its own word counts.
    lost: called in a thread of its own with the number of a process that died;
      ends this one.
  """
  listener, text = None, ''
  if agreement.first():
    with contextlib.suppress(OSError):
      listener = _listener()
      text = f'{listener.getsockname()[1]} {secrets.token_hex()} {host}'
  text = agreement.text_of_first(text)
  port, token, host = text.split(' ') if text else ('', '', '')
  watch = _Watch(token, lost, [], threading.Event())
  if listener:
    _start(_accept, watch, listener)
  elif port:
    with contextlib.suppress(OSError):
      _connect(watch, host, int(port))
  yield
  watch.over.set()
  for connection in list(watch.connections):
    with contextlib.suppress(OSError):
      connection.sendall(_FAREWELL)
