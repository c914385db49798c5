"""Notices at once when a process of the job dies.

Every process holds a connection to process 0, on which nothing is sent but a
farewell at the end. When a process dies, the system closes its connections. A
thread at the other end waits for that, even while the main thread of its
process waits in a collective or for a checkpoint. A host that loses its power
closes no connection; JAX's heartbeat finds that.
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
_PATIENCE = 10  # seconds until a connection must stand


class _Watch(NamedTuple):
  """State shared by the threads of this process.

  Attributes:
    token: secret that a process of the job sends when it connects; other
      programs that connect do not know it.
    lost: function called with the number of a process that died.
    connections: connections to the watched processes.
    over: set when the other processes may end.
  """

  token: str
  lost: Callable[[int], None]
  connections: list[socket.socket]
  over: threading.Event


def _received(connection: socket.socket, size: int) -> bytes:
  """Receives `size` bytes, or fewer if the other process has died."""
  with contextlib.suppress(OSError):
    return connection.recv(size, socket.MSG_WAITALL)
  return b''


def _wait(watch: _Watch, connection: socket.socket, process: int) -> None:
  """Waits for the end of a process; calls `lost` if it had no farewell."""
  if _received(connection, 1) != _FAREWELL and not watch.over.is_set():
    watch.lost(process)


def _receive(watch: _Watch, connection: socket.socket) -> None:
  """Accepts one process of the job, and waits for its end.

  A connection without the token is closed.
  """
  hello = _hello(watch.token, 0)
  received = _received(connection, len(hello))
  token, _, process = received.decode(errors='replace').partition(' ')
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
  """A socket that listens on a free port of every address of this host."""
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
  """Context in which the end of another process is noticed; a collective.

  Process 0 watches all others, and they watch process 0. A process that cannot
  connect continues without a watch. The context must be left without an error
  only when all processes have finished their work.

  Args:
    host: address at which the others reach process 0; that of process 0 counts.
    lost: called in a thread of its own with the number of a process that died;
      it must end this process.
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
