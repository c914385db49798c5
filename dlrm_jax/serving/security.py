"""Certificates, and the token that requests must bring."""

import hmac
import ipaddress
import urllib.parse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc

_SCHEME = 'bearer '


class Tls(NamedTuple):
  """Files in PEM: a certificate with those above it, and its private key."""

  cert: Path
  key: Path


class Security(NamedTuple):
  """How a server is secured.

  Attributes:
    tls: its certificate; None: it speaks plainly.
    token: what requests must bring; '': nothing.
  """

  tls: Tls | None
  token: str

  def admits(self, authorization: str | bytes) -> bool:
    """Whether a header `Authorization` has the token."""
    if not self.token:
      return True
    if isinstance(authorization, str):
      authorization = authorization.encode()
    scheme, given = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
    return scheme.lower() == _SCHEME.encode() and hmac.compare_digest(
      given.strip(), self.token.encode()
    )


def _is_address(name: str) -> bool:
  try:
    ipaddress.ip_address(name)
  except ValueError:
    return False
  return True


def is_loopback(host: str) -> bool:
  """Whether only this machine reaches an address to listen at."""
  if _is_address(host):
    return ipaddress.ip_address(host).is_loopback
  return host == 'localhost'


def is_own_name(asked: str, host: str) -> bool:
  """Whether a header `Host` names a server as no other can be named.

  Whoever owns another name may let it lead here, after his page was read under
  it: to browsers that page is then one of this server.

  Args:
    asked: the header.
    host: the address that the server listens at.
  """
  try:
    name = urllib.parse.urlsplit(f'//{asked}').hostname or ''
  except ValueError:  # half of an address in brackets
    return False
  return name in ('localhost', host.lower()) or _is_address(name)


class TokenInterceptor(grpc.aio.ServerInterceptor):
  """Refuses calls without the token, but for those about health."""

  def __init__(self, security: Security) -> None:
    self._security = security

  async def intercept_service(
    self,
    continuation: Callable[[Any], Awaitable[Any]],
    handler_call_details: Any,
  ) -> Any:
    """Answers a call, or refuses it."""
    method = handler_call_details.method.rpartition('/')[2]
    given = dict(handler_call_details.invocation_metadata or ())
    handler = await continuation(handler_call_details)
    if method in ('ServerLive', 'ServerReady') or self._security.admits(
      given.get('authorization', '')
    ):
      return handler

    async def refuse(requests: Any, context: Any) -> None:
      await context.abort(
        grpc.StatusCode.UNAUTHENTICATED, 'no token, or a wrong one'
      )

    if handler is None:  # there is no such call
      return None
    # As of streams, whose requests are not read before they are asked for.
    if handler.response_streaming:
      return grpc.stream_stream_rpc_method_handler(refuse)
    return grpc.stream_unary_rpc_method_handler(refuse)
