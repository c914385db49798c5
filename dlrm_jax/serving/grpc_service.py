"""The Open Inference Protocol over gRPC.

The messages are those that the package tritonclient brings.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from dlrm_jax.prepare.bad_rows import shorten
from dlrm_jax.serving import description
from dlrm_jax.serving.grpc_methods import MALFORMED, TOGETHER, abort
from dlrm_jax.serving.log import Log
from dlrm_jax.serving.parameters import (
  NO_LOG_SETTINGS,
  NO_SHARED_MEMORY,
  NO_TRACES,
  check_load,
  check_tensor,
  places_of,
  seconds_of,
)
from dlrm_jax.serving.refusal import RefusedError, Why, invalid
from dlrm_jax.serving.service import Service
from dlrm_jax.serving.tensors import BYTES, Tensor, of_bytes, of_json

_IN_FLIGHT = 64  # requests of a stream
_CONTENTS = {
  'BOOL': 'bool_contents',
  'INT8': 'int_contents',
  'INT16': 'int_contents',
  'INT32': 'int_contents',
  'INT64': 'int64_contents',
  'UINT8': 'uint_contents',
  'UINT16': 'uint_contents',
  'UINT32': 'uint_contents',
  'UINT64': 'uint64_contents',
  'FP32': 'fp32_contents',
  'FP64': 'fp64_contents',
  'BYTES': 'bytes_contents',
}


def _tensors(request: Any) -> dict[str, Tensor]:
  """The inputs of a request.

  Raises:
    RefusedError: one is malformed, or there twice.
  """
  for given in request.inputs:
    if given.parameters:
      check_tensor(_plain(given.parameters))
  raw = request.raw_input_contents
  if raw and len(raw) != len(request.inputs):
    raise invalid(
      f'{len(raw)} raw_input_contents for {len(request.inputs)} inputs'
    )
  found = {}
  for place, given in enumerate(request.inputs):
    shape = tuple(given.shape)
    if given.name in found:
      raise invalid(f'there are two inputs {shorten(given.name)}')
    if raw:
      if given.HasField('contents'):
        raise invalid(f'input {shorten(given.name)} has contents, raw and not')
      tensor = of_bytes(given.name, given.datatype, shape, raw[place])
    else:
      tensor = _of_contents(given, shape)
    found[given.name] = tensor
  return found


def _of_contents(given: Any, shape: tuple[int, ...]) -> Tensor:
  field = _CONTENTS.get(given.datatype)
  if field is None:  # of_bytes names the types that there are
    return of_bytes(given.name, given.datatype, shape, b'')
  data = list(getattr(given.contents, field))
  if given.datatype == BYTES:
    texts = [len(text).to_bytes(4, 'little') + text for text in data]
    return of_bytes(given.name, BYTES, shape, b''.join(texts))
  return of_json(given.name, given.datatype, shape, data)


def _plain(parameters: Any) -> dict[str, Any]:
  """Parameters as values of Python."""
  return {
    name: getattr(value, value.WhichOneof('parameter_choice') or 'int64_param')
    for name, value in parameters.items()
  }


# Any: its methods are those of a server without an event loop.
_Servicer: Any = service_pb2_grpc.GRPCInferenceServiceServicer


def _absent(why: str) -> Callable[..., Awaitable[None]]:
  """A call of the protocol that is refused."""

  async def refuse(self: Any, request: Any, context: Any) -> None:
    """Refuses."""
    await abort(context, RefusedError(Why.UNSUPPORTED, why))

  return refuse


_NO_SHARED_MEMORY = _absent(NO_SHARED_MEMORY)


class GrpcService(_Servicer):
  """Answers the calls of the protocol."""

  SystemSharedMemoryStatus = _NO_SHARED_MEMORY
  SystemSharedMemoryRegister = _NO_SHARED_MEMORY
  SystemSharedMemoryUnregister = _NO_SHARED_MEMORY
  CudaSharedMemoryStatus = _NO_SHARED_MEMORY
  CudaSharedMemoryRegister = _NO_SHARED_MEMORY
  CudaSharedMemoryUnregister = _NO_SHARED_MEMORY
  TraceSetting = _absent(NO_TRACES)
  LogSettings = _absent(NO_LOG_SETTINGS)

  def __init__(self, service: Service, log: Log) -> None:
    self._service, self._log = service, log
    self._streams = 0

  async def _infer(self, request: Any, seconds: float | None) -> Any:
    """The answer to a request.

    Raises:
      RefusedError: there is none.
    """
    start = time.perf_counter()
    try:
      if request is MALFORMED:
        raise invalid('the message is no ModelInferRequest')
      return await self._scored(request, seconds)
    except RefusedError as error:
      if not error.counted:
        self._service.refuse(error, time.perf_counter() - start, None)
      raise
    except Exception as error:
      raise self._log.defect(error) from None

  async def _scored(self, request: Any, seconds: float | None) -> Any:
    for output in request.outputs:
      if output.parameters:
        check_tensor(_plain(output.parameters))
    places = places_of([output.name for output in request.outputs])
    if request.parameters:
      asked = seconds_of(_plain(request.parameters))
      if asked is not None:
        seconds = asked if seconds is None else min(asked, seconds)
    version, answer = await self._service.infer(
      *(request.model_name, request.model_version, _tensors(request)),
      *(seconds, request.ByteSize()),
    )
    shape = answer.scores.shape[:2]
    response = service_pb2.ModelInferResponse(
      model_name=version.model,
      model_version=version.number,
      id=request.id,
      raw_output_contents=[
        answer.scores[..., place].tobytes() for _, place in places
      ],
    )
    for name, _ in places:
      response.outputs.add(name=name, datatype='FP32', shape=shape)
    return response

  async def ModelInfer(self, request: Any, context: Any) -> Any:
    """Scores rows."""
    self._service.open += 1
    context.add_done_callback(self._service.closed)
    try:
      return await self._infer(request, context.time_remaining())
    except RefusedError as error:
      await abort(context, error)

  async def ModelStreamInfer(
    self, request_iterator: AsyncIterator[Any], context: Any
  ) -> AsyncIterator[Any]:
    """Scores the requests of a stream; answers have their order."""
    if self._streams >= TOGETHER:
      error = RefusedError(Why.FULL, f'{TOGETHER} streams are open; try again')
      self._service.refuse(error, 0.0, None)
      await abort(context, error)
    self._streams += 1
    pending: asyncio.Queue[asyncio.Task | None] = asyncio.Queue(_IN_FLIGHT)

    async def take() -> None:
      try:
        async for request in request_iterator:
          await pending.put(asyncio.create_task(self._of_stream(request)))
      except Exception:  # which is raised once all before is answered
        await pending.put(None)
        raise
      await pending.put(None)

    taking = asyncio.create_task(take())
    try:
      while task := await pending.get():
        yield await task
      await taking
    finally:
      self._streams -= 1
      taking.cancel()
      while not pending.empty():
        if task := pending.get_nowait():
          task.cancel()

  async def _of_stream(self, request: Any) -> Any:
    name = '' if request is MALFORMED else request.id
    self._service.open += 1
    try:
      response = await self._infer(request, None)
    except RefusedError as error:
      return service_pb2.ModelStreamInferResponse(
        error_message=f'[{error.why.value.name}] {error}',
        infer_response=service_pb2.ModelInferResponse(id=name),
      )
    finally:
      self._service.closed()
    response.parameters['triton_final_response'].bool_param = True
    return service_pb2.ModelStreamInferResponse(infer_response=response)

  async def ServerLive(self, request: Any, context: Any) -> Any:
    """Whether the server answers."""
    return service_pb2.ServerLiveResponse(live=True)

  async def ServerReady(self, request: Any, context: Any) -> Any:
    """Whether every model is served."""
    return service_pb2.ServerReadyResponse(ready=self._service.ready)

  async def ModelReady(self, request: Any, context: Any) -> Any:
    """Whether a model is served."""
    try:
      ready = self._service.model_ready(request.name, request.version)
    except RefusedError:
      ready = False
    return service_pb2.ModelReadyResponse(ready=ready)

  async def ServerMetadata(self, request: Any, context: Any) -> Any:
    """Name, version and extensions of the server."""
    return service_pb2.ServerMetadataResponse(**description.server_metadata())

  async def _described(
    self, context: Any, message: Any, describe: Callable[[], dict[str, Any]]
  ) -> Any:
    """Fills a message with what JSON has."""
    try:
      return json_format.ParseDict(describe(), message)
    except RefusedError as error:
      await abort(context, error)

  async def ModelMetadata(self, request: Any, context: Any) -> Any:
    """Inputs and outputs of a model."""
    repository = self._service.repository
    return await self._described(
      context,
      service_pb2.ModelMetadataResponse(),
      lambda: description.model_metadata(
        repository, request.name, request.version
      ),
    )

  async def ModelConfig(self, request: Any, context: Any) -> Any:
    """The configuration of a model."""
    repository = self._service.repository
    return await self._described(
      context,
      service_pb2.ModelConfigResponse(),
      lambda: {
        'config': description.model_config(
          repository.find(request.name, request.version)
        )
      },
    )

  async def ModelStatistics(self, request: Any, context: Any) -> Any:
    """What one model, or all, counted."""
    repository = self._service.repository
    return await self._described(
      context,
      service_pb2.ModelStatisticsResponse(),
      lambda: description.statistics(repository, request.name, request.version),
    )

  async def RepositoryIndex(self, request: Any, context: Any) -> Any:
    """All models."""
    repository = self._service.repository
    return await self._described(
      context,
      service_pb2.RepositoryIndexResponse(),
      lambda: {
        'models': description.index(repository, only_ready=request.ready)
      },
    )

  async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
    """Serves what is in a model's folder now."""
    try:
      check_load(_plain(request.parameters))
      await self._service.load(request.model_name)
    except RefusedError as error:
      await abort(context, error)
    return service_pb2.RepositoryModelLoadResponse()

  async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
    """Serves a model no more."""
    try:
      await self._service.repository.unload(request.model_name)
    except RefusedError as error:
      await abort(context, error)
    return service_pb2.RepositoryModelUnloadResponse()
