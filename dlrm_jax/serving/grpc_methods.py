"""The methods of gRPC's service, whose messages may be malformed.

gRPC would say UNKNOWN of such a message, as if the server had failed, and the
rest of its stream would get no answer.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

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


def _checked(
  answer: Callable[..., Awaitable[Any]], name: str
) -> Callable[..., Awaitable[Any]]:
  """The same method, which refuses malformed messages."""

  async def checked(request: Any, context: Any) -> Any:
    if request is MALFORMED:
      await context.abort(
        grpc.StatusCode.INVALID_ARGUMENT, f'the message is no {name}'
      )
    return await answer(request, context)

  return checked


def add_methods(servicer: Any, server: Any) -> None:
  """Lets a server call a servicer; streams get `MALFORMED` as it is."""
  handlers = {}
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
      made = grpc.unary_unary_rpc_method_handler(
        _checked(answer, method.input_type.name), **codecs
      )
    handlers[method.name] = made
  name = _SERVICE.full_name
  generic = grpc.method_handlers_generic_handler(name, handlers)
  server.add_generic_rpc_handlers((generic,))
  server.add_registered_method_handlers(name, handlers)
