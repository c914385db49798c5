"""Why a request got no answer, in the words of HTTP and of gRPC."""

import enum
from typing import NamedTuple

_MOST = 500  # characters of an error that is no refusal


class Code(NamedTuple):
  """A kind of refusal.

  Attributes:
    name: name of the status of gRPC, and in metrics.
    http: status of HTTP.
  """

  name: str
  http: int


class Why(enum.Enum):
  """Kinds of refusals."""

  INVALID = Code('INVALID_ARGUMENT', 400)
  UNAUTHENTICATED = Code('UNAUTHENTICATED', 401)
  FORBIDDEN = Code('PERMISSION_DENIED', 403)
  UNKNOWN = Code('NOT_FOUND', 404)
  TOO_LARGE = Code('RESOURCE_EXHAUSTED', 413)
  FULL = Code('RESOURCE_EXHAUSTED', 429)
  FAILED = Code('INTERNAL', 500)
  UNSUPPORTED = Code('UNIMPLEMENTED', 501)
  UNAVAILABLE = Code('UNAVAILABLE', 503)
  LATE = Code('DEADLINE_EXCEEDED', 504)


class RefusedError(Exception):
  """A request that gets no answer.

  Attributes:
    why: the kind.
    counted: whether it is in the statistics already.
  """

  def __init__(self, why: Why, message: str) -> None:
    super().__init__(message)
    self.why = why
    self.counted = False


def invalid(message: str) -> RefusedError:
  """The request itself is wrong."""
  return RefusedError(Why.INVALID, message)


def failed_by(error: Exception) -> RefusedError:
  """The server itself is wrong; its log says more."""
  return RefusedError(Why.FAILED, f'the server failed: {type(error).__name__}')


def line_of(error: Exception) -> str:
  """What an error of a library or device says, in one line."""
  first = f'{type(error).__name__}: {error}'.splitlines()[0]
  return first[:_MOST]
