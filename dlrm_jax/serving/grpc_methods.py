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

from dlrm_jax.serving.refusal import RefusedError, Why

TOGETHER = 32
"""Messages that are read at a time, of calls, and of streams."""

_SECONDS = 30.0  # for a message to come, where others wait to be read
_SERVICE = service_pb2.DESCRIPTOR.services_by_name['GRPCInferenceService']

_SCORES = 'ModelInfer'  # the method that scores

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


async def abort(context: Any, error: RefusedError) -> Any:
  """Ends a call with a refusal."""
  if error.why is Why.FULL:
    context.set_trailing_metadata((('retry-after', '1'),))
  error.__traceback__ = None  # it holds what was read
  code = grpc.StatusCode[error.why.value.name]
  await context.abort(code, str(error))


class _Reading:
  """Reads so many messages at a time."""

  def __init__(self) -> None:
    self._room = asyncio.Semaphore(TOGETHER)
    self._since: dict[asyncio.Timeout, float] = {}

  async def __call__(self, context: Any, check: Callable[[], None]) -> Any:
    """The message of a call.

    Args:
      context: of the call.
      check: refuses it, unread; also called once it is its turn, as the queues
        may be full after it has waited for others.

    Raises:
      TimeoutError: it does not come.
      RefusedError: by `check`.
    """
    check()
    waits = self._room.locked()
    async with self._room, asyncio.timeout(None) as limit:
      if waits:
        check()
      self._since[limit] = asyncio.get_running_loop().time()
      if self._room.locked():  # only then, as timers take long
        for other, since in self._since.items():
          if other.when() is None:
            other.reschedule(since + _SECONDS)
      try:
        return await context.read()
      finally:
        del self._since[limit]


def _all_may() -> None:
  """Refuses no call."""


def _checked(
  answer: Callable[..., Awaitable[Any]],
  name: str,
  reading: _Reading,
  check: Callable[[], None],
) -> Callable[..., Awaitable[Any]]:
  """The method of a stream of one message, as one is read when it is asked for.

  It refuses malformed messages, and those that do not come.
  """

  async def checked(requests: Any, context: Any) -> Any:
    try:
      request = await reading(context, check)
    except RefusedError as error:
      return await abort(context, error)
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


def add_methods(
  servicer: Any, server: Any, check_room: Callable[[], None]
) -> None:
  """Lets a server call a servicer; streams get `MALFORMED` as it is.

  Args:
    servicer: has the methods.
    server: of gRPC.
    check_room: refuses a request to score, unread, where there is no room.
  """
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
      check = check_room if method.name == _SCORES else _all_may
      made = grpc.stream_unary_rpc_method_handler(
        _checked(answer, method.input_type.name, reading, check), **codecs
      )
    handlers[method.name] = made
  name = _SERVICE.full_name
  generic = grpc.method_handlers_generic_handler(name, handlers)
  server.add_generic_rpc_handlers((generic,))
  server.add_registered_method_handlers(name, handlers)
