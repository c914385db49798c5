"""A server: its ports, its models, and how it starts and ends."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import uvicorn

from dlrm_jax.errors import InputError
from dlrm_jax.serving.grpc_methods import add_methods
from dlrm_jax.serving.grpc_service import GrpcService
from dlrm_jax.serving.http.connection import Connection
from dlrm_jax.serving.http.service import HttpService
from dlrm_jax.serving.log import Log
from dlrm_jax.serving.repository import Repository
from dlrm_jax.serving.security import Security, TokenInterceptor
from dlrm_jax.serving.service import Service
from dlrm_jax.serving.statistics import Statistics
from dlrm_jax.serving.version import Version, open_version
from dlrm_jax.serving.waiting import Batch, Limits

_CALLS = 1024  # of gRPC at a time, and its connections
_TOGETHER = 32  # requests of full size that wait at a time
_LINGER = 0.3  # seconds in which what comes is refused before ports close
_GRACE = 5.0  # seconds in which connections close, once all is answered


class Settings(NamedTuple):
  """What a server is told.

  Attributes:
    models: folder of each model, by name.
    host: address to listen at.
    http: port of HTTP; 0: any that is free.
    grpc: port of gRPC; 0: any that is free.
    limits: how much waits, and how much is joined.
    max_body: most bytes of a request.
    security: certificate and token.
  """

  models: Mapping[str, Path]
  host: str
  http: int
  grpc: int
  limits: Limits
  max_body: int
  security: Security


class Running(NamedTuple):
  """A server that runs.

  Attributes:
    service: answers.
    http: port of HTTP.
    grpc: port of gRPC.
    log: its log.
  """

  service: Service
  http: int
  grpc: int
  log: Log


class _Uvicorn(uvicorn.Server):
  """Leaves signals to the command."""

  @contextlib.contextmanager
  def capture_signals(self) -> Any:
    """Sets no handler."""
    yield


def _listen(settings: Settings) -> socket.socket:
  """Takes the port of HTTP.

  Raises:
    InputError: it is not to be had.
  """
  family = socket.AF_INET6 if ':' in settings.host else socket.AF_INET
  held = socket.socket(family)
  held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    held.bind((settings.host, settings.http))
  except OSError as error:
    held.close()
    raise InputError(
      f'--http={settings.http} at {settings.host}: {error.strerror}; choose '
      'another port, or 0 for any that is free'
    ) from None
  held.listen()
  return held


def _grpc_server(
  settings: Settings, service: Service, log: Log
) -> tuple[Any, int]:
  """A server of gRPC that is not started, and its port.

  Raises:
    InputError: the port is not to be had.
  """
  security = settings.security
  server = grpc.aio.server(
    interceptors=[TokenInterceptor(security)] if security.token else [],
    maximum_concurrent_rpcs=_CALLS,
    options=[
      ('grpc.max_receive_message_length', settings.max_body),
      ('grpc.max_send_message_length', -1),
      ('grpc.max_allowed_incoming_connections', _CALLS),
      ('grpc.so_reuseport', 0),  # else two servers share a port
    ],
  )
  add_methods(GrpcService(service, log), server, service.check_room)
  host = f'[{settings.host}]' if ':' in settings.host else settings.host
  address = f'{host}:{settings.grpc}'
  try:
    if security.tls is None:
      port = server.add_insecure_port(address)
    else:
      pair = security.tls.key.read_bytes(), security.tls.cert.read_bytes()
      credentials = grpc.ssl_server_credentials([pair])
      port = server.add_secure_port(address, credentials)
  except RuntimeError:
    raise InputError(
      f'--grpc={settings.grpc} at {settings.host}: the port is not to be had; '
      'choose another one, or 0 for any that is free'
    ) from None
  return server, port


def _opening(
  service: Callable[[], Service], limits: Limits, log: Log
) -> Callable[[str, str, Path], Version]:
  """A function that opens versions, whose batches come to this event loop."""
  loop = asyncio.get_running_loop()

  def deliver(statistics: Statistics, batch: Batch) -> None:
    loop.call_soon_threadsafe(service().delivered, statistics, batch)

  def opened(name: str, number: str, folder: Path) -> Version:
    return open_version(name, number, folder, limits, deliver, log)

  return opened


@contextlib.asynccontextmanager
async def running(settings: Settings, log: Log) -> AsyncIterator[Running]:
  """A context in which a server answers, though it has no models yet.

  At its end all that was taken is answered.

  Args:
    settings: what the server is told.
    log: where events are written.

  Raises:
    InputError: a port is not to be had.
  """
  held = _listen(settings)
  opening = _opening(lambda: service, settings.limits, log)
  repository = Repository(settings.models, opening, log)
  service = Service(repository, log, _TOGETHER * settings.max_body)
  try:
    grpc_server, grpc_port = _grpc_server(settings, service, log)
  except BaseException:
    held.close()
    raise
  http_port = held.getsockname()[1]
  tls = settings.security.tls
  http_service = HttpService(
    service, settings.max_body, settings.security, settings.host, log
  )
  config = uvicorn.Config(
    http_service.app(),
    http=Connection,
    log_config=None,
    log_level='error',
    access_log=False,
    lifespan='off',
    server_header=False,
    timeout_graceful_shutdown=int(_GRACE),
    ssl_certfile=tls.cert if tls else None,
    ssl_keyfile=tls.key if tls else None,
  )
  http_server = _Uvicorn(config)
  http = asyncio.create_task(http_server.serve([held]))
  await grpc_server.start()
  try:
    yield Running(service, http_port, grpc_port, log)
  finally:
    served = any(repository.served())
    await service.drain()
    await repository.close()
    if served:  # a stopped server of gRPC says less clearly that it refuses
      await asyncio.sleep(_LINGER)
    http_server.should_exit = True
    await grpc_server.stop(_GRACE)
    await http
    held.close()
    service.seldom.flush()
