"""The methods of gRPC's service, whose messages may be malformed, or many.

gRPC would say UNKNOWN of a malformed message, as if the server had failed, and
the rest of its stream would get no answer; and it would hold the messages of
all calls at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

TOGETHER = 32
"""Messages that are read at a time, of calls, and of streams."""

_SECONDS = 30.0  # for a message to come, where others wait to be read
_SERVICE = service_pb2.DESCRIPTOR.services_by_name['GRPCInferenceService']

MALFORMED: Any = object()
"""Takes the place of a message that could not be read."""


def _reading(kind: Any) -> Callable[[bytes], Any]:
  """A function that reads messages of a kind."""

  def read(content: bytes) -> Any:
    try:
      return kind.FromString(content)
    except DecodeError:
      return MALFORMED

  return read


class _Reading:
  """Reads so many messages at a time."""

  def __init__(self) -> None:
    self._room = asyncio.Semaphore(TOGETHER)
    self._since: dict[asyncio.Timeout, float] = {}

  async def __call__(self, context: Any) -> Any:
    """The message of a call.

    Raises:
      TimeoutError: it does not come.
    """
    async with self._room, asyncio.timeout(None) as limit:
      self._since[limit] = asyncio.get_running_loop().time()
      if self._room.locked():  # only then, as timers take long
        for other, since in self._since.items():
          if other.when() is None:
            other.reschedule(since + _SECONDS)
      try:
        return await context.read()
      finally:
        del self._since[limit]


def _checked(
  answer: Callable[..., Awaitable[Any]], name: str, reading: _Reading
) -> Callable[..., Awaitable[Any]]:
  """The method of a stream of one message, as one is read when it is asked for.

  It refuses malformed messages, and those that do not come.
  """

  async def checked(requests: Any, context: Any) -> Any:
    try:
      request = await reading(context)
    except TimeoutError:
      return await context.abort(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        f'the message did not come within {_SECONDS:g} seconds',
      )
    if request is MALFORMED or request is grpc.aio.EOF:
      await context.abort(
        grpc.StatusCode.INVALID_ARGUMENT, f'the message is no {name}'
      )
    return await answer(request, context)

  return checked


def add_methods(servicer: Any, server: Any) -> None:
  """Lets a server call a servicer; streams get `MALFORMED` as it is."""
  handlers, reading = {}, _Reading()
  for method in _SERVICE.methods:
    answer = getattr(servicer, method.name)
    codecs = {
      'request_deserializer': _reading(
        message_factory.GetMessageClass(method.input_type)
      ),
      'response_serializer': message_factory.GetMessageClass(
        method.output_type
      ).SerializeToString,
    }
    if method.server_streaming:
      made = grpc.stream_stream_rpc_method_handler(answer, **codecs)
    else:
      made = grpc.stream_unary_rpc_method_handler(
        _checked(answer, method.input_type.name, reading), **codecs
      )
    handlers[method.name] = made
  name = _SERVICE.full_name
  generic = grpc.method_handlers_generic_handler(name, handlers)
  server.add_generic_rpc_handlers((generic,))
  server.add_registered_method_handlers(name, handlers)
