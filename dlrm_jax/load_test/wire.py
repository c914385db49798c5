"""A server of the Open Inference Protocol, seen through tritonclient.

Requests are encoded before a test begins, as perf_analyzer does. gRPC has the
client of `tritonclient.grpc.aio`. Over HTTP, bodies are encoded and decoded by
`tritonclient.http` and sent by aiohttp, which also its client is made of, since
that client does not show the header Retry-After of a refusal.
"""

import json
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

import aiohttp
import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
from tritonclient.utils import InferenceServerException

from dlrm_jax.errors import InputError
from dlrm_jax.load_test.flags import Wanted

_PATIENCE = 60.0  # seconds, for any answer
_FULL = 429
_LENGTH = 'Inference-Header-Content-Length'
_MOST_BYTES = 2**31 - 1  # of a message of gRPC


class Tensor(NamedTuple):
  """An input of a request.

  Attributes:
    name: its name.
    datatype: its type by the protocol, such as 'FP32'.
    values: its values; texts are an array of objects.
  """

  name: str
  datatype: str
  values: np.ndarray


class Decoded(NamedTuple):
  """An answer.

  Attributes:
    version: of the model; '' where the server does not say.
    outputs: arrays by name; None: the answer lacks one.
  """

  version: str
  outputs: Mapping[str, np.ndarray | None]


class RefusedError(Exception):
  """The server has no room for a request.

  Attributes:
    wait: seconds after which to try again, where the server says so.
  """

  def __init__(self, message: str, wait: float | None) -> None:
    super().__init__(message)
    self.wait = wait


class FailedError(Exception):
  """A request that got no answer, for another reason than want of room."""


class Wire(Protocol):
  """A connection to a server, for one model."""

  async def metadata(self) -> dict[str, Any]:
    """Names, types and shapes of the inputs and outputs."""
    ...

  async def config(self) -> dict[str, Any]:
    """The configuration of the model; empty where the server has none."""
    ...

  async def statistics(self) -> dict[str, Any] | None:
    """What the server has counted; None: it does not count."""
    ...

  def encode(self, tensors: Sequence[Tensor]) -> Any:
    """A request, as `ask` takes it."""
    ...

  async def ask(self, request: Any) -> Any:
    """What the server answers.

    Raises:
      RefusedError: it has no room.
      FailedError: there is no answer.
    """
    ...

  def decode(self, answer: Any, names: Sequence[str]) -> Decoded:
    """An answer, of which these outputs are wanted."""
    ...

  async def close(self) -> None:
    """Closes the connection."""
    ...


def _seconds(text: object) -> float | None:
  """The value of Retry-After in seconds; None: it has none, or a date."""
  try:
    return max(float(str(text)), 0.0)
  except ValueError:
    return None


class GrpcWire:
  """gRPC."""

  def __init__(self, address: str, wanted: Wanted) -> None:
    options = [
      ('grpc.max_send_message_length', _MOST_BYTES),
      ('grpc.max_receive_message_length', _MOST_BYTES),
    ]
    self._client = tritonclient.grpc.aio.InferenceServerClient(
      address,
      ssl=wanted.url.startswith('grpcs:'),
      root_certificates=wanted.tls_cert,
      channel_args=options,
    )
    self._model = wanted.model
    self._options: dict[str, Any] = {
      'client_timeout': _PATIENCE,
      'headers': _headers(wanted.token),
    }

  async def metadata(self) -> dict[str, Any]:
    """See `Wire`."""
    found: Any = await self._client.get_model_metadata(
      self._model, as_json=True, **self._options
    )
    return found

  async def config(self) -> dict[str, Any]:
    """See `Wire`."""
    try:
      found: Any = await self._client.get_model_config(
        self._model, as_json=True, **self._options
      )
    except InferenceServerException:
      return {}
    return found.get('config', {})

  async def statistics(self) -> dict[str, Any] | None:
    """See `Wire`."""
    try:
      found: Any = await self._client.get_inference_statistics(
        self._model, as_json=True, **self._options
      )
    except InferenceServerException:
      return None
    return found

  def encode(self, tensors: Sequence[Tensor]) -> Any:
    """See `Wire`."""
    return _inputs(tritonclient.grpc.InferInput, tensors)

  async def ask(self, request: Any) -> Any:
    """See `Wire`."""
    try:
      return await self._client.infer(self._model, request, **self._options)
    except InferenceServerException as error:
      message = str(error.message())
      if error.status() != str(grpc.StatusCode.RESOURCE_EXHAUSTED):
        raise FailedError(f'{error.status()}: {message}') from None
      raise RefusedError(message, _wait_of(error.__context__)) from None

  def decode(self, answer: Any, names: Sequence[str]) -> Decoded:
    """See `Wire`."""
    outputs = {name: answer.as_numpy(name) for name in names}
    return Decoded(answer.get_response().model_version, outputs)

  async def close(self) -> None:
    """See `Wire`."""
    await self._client.close()


def _headers(token: str) -> dict[str, str]:
  return {'authorization': f'Bearer {token}'} if token else {}


def _wait_of(error: object) -> float | None:
  """Retry-After among the trailing metadata of an error of gRPC."""
  if not isinstance(error, grpc.aio.AioRpcError):
    return None
  metadata = {key.lower(): x for key, x in error.trailing_metadata() or ()}
  return _seconds(metadata.get('retry-after'))


def _inputs(kind: Any, tensors: Sequence[Tensor]) -> list[Any]:
  found = []
  for name, datatype, values in tensors:
    given = kind(name, list(values.shape), datatype)
    given.set_data_from_numpy(values)
    found.append(given)
  return found


class HttpWire:
  """HTTP."""

  def __init__(self, address: str, wanted: Wanted) -> None:
    trusted = ssl.create_default_context(cafile=wanted.tls_cert)
    self._session = aiohttp.ClientSession(
      # No request waits for a connection.
      connector=aiohttp.TCPConnector(limit=0, ssl=trusted),
      timeout=aiohttp.ClientTimeout(total=_PATIENCE),
      headers=_headers(wanted.token),
    )
    scheme, model = urlsplit(wanted.url).scheme, quote(wanted.model, safe='')
    self._url = f'{scheme}://{address}/v2/models/{model}'

  async def _get(self, path: str) -> dict[str, Any]:
    async with self._session.get(f'{self._url}{path}') as response:
      body = await response.read()
    if response.status != 200:
      raise InferenceServerException(_error(body), str(response.status))
    return json.loads(body)

  async def metadata(self) -> dict[str, Any]:
    """See `Wire`."""
    return await self._get('')

  async def config(self) -> dict[str, Any]:
    """See `Wire`."""
    try:
      return await self._get('/config')
    except InferenceServerException:
      return {}

  async def statistics(self) -> dict[str, Any] | None:
    """See `Wire`."""
    try:
      return await self._get('/stats')
    except InferenceServerException:
      return None

  def encode(self, tensors: Sequence[Tensor]) -> Any:
    """See `Wire`."""
    inputs = _inputs(tritonclient.http.InferInput, tensors)
    client = tritonclient.http.InferenceServerClient
    body, length = client.generate_request_body(inputs)
    return body, {} if length is None else {_LENGTH: str(length)}

  async def ask(self, request: Any) -> Any:
    """See `Wire`."""
    body, headers = request
    try:
      async with self._session.post(
        f'{self._url}/infer', data=body, headers=headers
      ) as response:
        answer = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
      raise FailedError(f'{type(error).__name__}: {error}') from None
    if response.status == _FULL:
      wait = _seconds(response.headers.get('Retry-After'))
      raise RefusedError(_error(answer), wait)
    if response.status != 200:
      raise FailedError(f'{response.status}: {_error(answer)}')
    length = response.headers.get(_LENGTH)
    return answer, None if length is None else int(length)

  def decode(self, answer: Any, names: Sequence[str]) -> Decoded:
    """See `Wire`."""
    body, length = answer
    client = tritonclient.http.InferenceServerClient
    result: Any = client.parse_response_body(body, header_length=length)
    outputs = {name: result.as_numpy(name) for name in names}
    return Decoded(result.get_response().get('model_version', ''), outputs)

  async def close(self) -> None:
    """See `Wire`."""
    await self._session.close()


def _error(body: bytes) -> str:
  """The message in the body of an error of HTTP."""
  try:
    return str(json.loads(body)['error'])
  except (ValueError, KeyError, TypeError):
    return body[:200].decode(errors='replace')


_WIRES: Mapping[str, Any] = {
  'grpc': GrpcWire,
  'grpcs': GrpcWire,
  'http': HttpWire,
  'https': HttpWire,
}


def address_of(url: str) -> tuple[str, str]:
  """Protocol, and host with port, of a URL.

  Raises:
    InputError: it is no such URL.
  """
  parts = urlsplit(url)
  try:
    good = parts.scheme in _WIRES and parts.hostname and parts.port
  except ValueError:  # the port is no number
    good = False
  if not good or parts.path not in ('', '/') or parts.query:
    raise InputError(
      f'--url={url}: expected grpc://HOST:PORT or http://HOST:PORT (grpcs, '
      'https: with TLS), such as grpc://localhost:8001'
    )
  return parts.scheme, parts.netloc


async def connect(wanted: Wanted) -> tuple[Wire, dict[str, Any]]:
  """Connects to a server, and asks for the metadata of the model.

  Raises:
    InputError: there is no server, or no such model that is ready.
  """
  url = wanted.url
  scheme, address = address_of(url)
  wire: Wire = _WIRES[scheme](address, wanted)
  try:
    return wire, await wire.metadata()
  except InferenceServerException as error:
    await wire.close()
    raise InputError(
      f'{url}: model {wanted.model!r} gives no metadata: {error.message()} '
      f'({error.status()})'
    ) from None
  except (aiohttp.ClientError, OSError, ValueError) as error:
    await wire.close()
    raise InputError(
      f'{url}: no server of the Open Inference Protocol answers: {error}'
    ) from None
