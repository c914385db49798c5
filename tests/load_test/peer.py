"""A small server of the Open Inference Protocol, whose moods tests choose.

Its messages of gRPC are those that tritonclient brings; HTTP is served by
aiohttp. It runs on a thread of its own.
"""

import asyncio
import json
import threading
import time

import aiohttp.web
import grpc
import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

INPUTS = [
  {'name': 'x', 'datatype': 'FP32', 'shape': [-1, 1]},
  {'name': 'number', 'datatype': 'INT64', 'shape': [-1, 1]},
  {'name': 'word', 'datatype': 'BYTES', 'shape': [-1, 1]},
  {'name': 'bag', 'datatype': 'BYTES', 'shape': [-1, -1]},
]
OUTPUTS = [
  {'name': 'probability', 'datatype': 'FP32', 'shape': [-1, 1]},
  {'name': 'logit', 'datatype': 'FP32', 'shape': [-1, 1]},
]
MICROSECONDS = {'queue': 11, 'compute_input': 22, 'compute_infer': 33}
"""What each answer is said to take in a stage."""

_LENGTH = 'Inference-Header-Content-Length'


class RefusedError(Exception):
  """429 or RESOURCE_EXHAUSTED."""


class BrokenError(Exception):
  """500 or INTERNAL."""


class Mood:
  """How requests are answered; counts them.

  Attributes:
    refuse: numbers of requests that are refused, counted from 1.
    wait: Retry-After, in seconds.
    fail: whether requests fail.
    wrong: what is wrong with answers.
    counts: whether there are statistics.
    most: max_batch_size of the config.
    times: when requests came.
    sizes: their numbers of rows.
    answered: number of answers.
  """

  def __init__(self):
    self.refuse, self.wait, self.fail, self.wrong = set(), '0', False, ''
    self.counts, self.most = True, 1024
    self.times, self.sizes, self.answered = [], [], 0

  def outputs(self, tensors):
    """The outputs of the inputs of a request, by name."""
    self.times.append(time.monotonic())
    if len(self.times) in self.refuse:
      raise RefusedError
    if self.fail:
      raise BrokenError
    assert tensors.keys() == {x['name'] for x in INPUTS}
    x = tensors['x']
    self.sizes.append(len(x))
    words = np.array([len(word) for word in tensors['word'][:, 0]])
    logit = (x[:, 0] + tensors['number'][:, 0] % 7 + words)[:, None]
    logit = (logit / 10).astype(np.float32)
    if self.wrong == 'changing':
      logit = logit + np.float32(self.answered)
    found = {'probability': 1 / (1 + np.exp(-logit)), 'logit': logit}
    self.answered += 1
    if self.wrong == 'nan':
      found['logit'] = logit * np.float32(np.nan)
    if self.wrong == 'shape':
      found['logit'] = logit[:, 0]
    if self.wrong == 'missing':
      del found['probability']
    return found

  def statistics(self):
    """Statistics as JSON has them."""
    stages = {
      name: {'count': self.answered, 'ns': 1000 * each * self.answered}
      for name, each in MICROSECONDS.items()
    }
    about = {'name': 'ctr', 'version': '1', 'inference_stats': stages}
    return {'model_stats': [about]}

  def config(self):
    """The configuration as JSON has it."""
    return {'name': 'ctr', 'max_batch_size': self.most}

  @staticmethod
  def metadata():
    """The metadata as JSON has them."""
    return {'name': 'ctr', 'inputs': INPUTS, 'outputs': OUTPUTS}


def _array(datatype, shape, raw):
  if datatype == 'BYTES':
    return deserialize_bytes_tensor(raw).reshape(shape)
  return np.frombuffer(raw, triton_to_np_dtype(datatype)).reshape(shape)


class _Grpc(service_pb2_grpc.GRPCInferenceServiceServicer):
  """The service of gRPC."""

  def __init__(self, mood):
    self.mood = mood

  async def _known(self, name, context):
    if name != 'ctr':
      await context.abort(grpc.StatusCode.NOT_FOUND, f'no model {name}')

  async def ModelMetadata(self, request, context):
    await self._known(request.name, context)
    return json_format.ParseDict(
      self.mood.metadata(), service_pb2.ModelMetadataResponse()
    )

  async def ModelConfig(self, request, context):
    return json_format.ParseDict(
      {'config': self.mood.config()}, service_pb2.ModelConfigResponse()
    )

  async def ModelStatistics(self, request, context):
    if not self.mood.counts:
      await context.abort(grpc.StatusCode.UNIMPLEMENTED, 'no statistics')
    return json_format.ParseDict(
      self.mood.statistics(), service_pb2.ModelStatisticsResponse()
    )

  async def ModelInfer(self, request, context):
    tensors = {
      x.name: _array(x.datatype, x.shape, raw)
      for x, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    try:
      outputs = self.mood.outputs(tensors)
    except RefusedError:
      context.set_trailing_metadata((('retry-after', self.mood.wait),))
      await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, 'full')
    except BrokenError:
      await context.abort(grpc.StatusCode.INTERNAL, 'broken')
    answer = service_pb2.ModelInferResponse(model_name='ctr', model_version='1')
    for name, array in outputs.items():
      answer.outputs.add(name=name, datatype='FP32', shape=array.shape)
      answer.raw_output_contents.append(array.astype(np.float32).tobytes())
    return answer


class _Http:
  """The service of HTTP."""

  def __init__(self, mood):
    self.mood = mood

  def routes(self):
    get, post = aiohttp.web.get, aiohttp.web.post
    about = '/v2/models/ctr'
    return [
      get(about, self._json(self.mood.metadata)),
      get(f'{about}/config', self._json(self.mood.config)),
      get(f'{about}/stats', self._statistics),
      post(f'{about}/infer', self._infer),
    ]

  @staticmethod
  def _json(content):
    async def answer(request):
      return aiohttp.web.json_response(content())

    return answer

  async def _statistics(self, request):
    if not self.mood.counts:
      return aiohttp.web.json_response({'error': 'no statistics'}, status=404)
    return aiohttp.web.json_response(self.mood.statistics())

  async def _infer(self, request):
    body = await request.read()
    length = int(request.headers[_LENGTH])
    tensors, start = {}, length
    for x in json.loads(body[:length])['inputs']:
      size = x['parameters']['binary_data_size']
      raw, start = body[start : start + size], start + size
      tensors[x['name']] = _array(x['datatype'], x['shape'], raw)
    try:
      outputs = self.mood.outputs(tensors)
    except RefusedError:
      headers = {'Retry-After': self.mood.wait}
      return aiohttp.web.json_response(
        {'error': 'full'}, status=429, headers=headers
      )
    except BrokenError:
      return aiohttp.web.json_response({'error': 'broken'}, status=500)
    about, parts = [], []
    for name, array in outputs.items():
      parts.append(array.astype(np.float32).tobytes())
      size = {'binary_data_size': len(parts[-1])}
      about.append(
        {'name': name, 'datatype': 'FP32', 'shape': list(array.shape)}
        | {'parameters': size}
      )
    head = json.dumps(
      {'model_name': 'ctr', 'model_version': '1', 'outputs': about}
    ).encode()
    return aiohttp.web.Response(
      body=head + b''.join(parts), headers={_LENGTH: str(len(head))}
    )


class Peer:
  """The server, as a context.

  Attributes:
    mood: how it answers.
    urls: its addresses, by protocol.
  """

  def __init__(self):
    self.mood, self.urls = Mood(), {}
    self._loop = asyncio.new_event_loop()
    self._ready = threading.Event()
    self._thread = threading.Thread(target=self._run)

  def _run(self):
    asyncio.set_event_loop(self._loop)
    self._loop.run_until_complete(self._serve())
    self._loop.close()

  async def _serve(self):
    self._end = asyncio.Event()
    grpc_server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
      _Grpc(self.mood), grpc_server
    )
    port = grpc_server.add_insecure_port('127.0.0.1:0')
    self.urls['grpc'] = f'grpc://127.0.0.1:{port}'
    await grpc_server.start()
    app = aiohttp.web.Application()
    app.add_routes(_Http(self.mood).routes())
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, '127.0.0.1', 0)
    await site.start()
    self.urls['http'] = f'http://127.0.0.1:{runner.addresses[0][1]}'
    self._ready.set()
    await self._end.wait()
    await runner.cleanup()
    await grpc_server.stop(None)

  def __enter__(self):
    self._thread.start()
    assert self._ready.wait(60)
    return self

  def __exit__(self, *error):
    self._loop.call_soon_threadsafe(self._end.set)
    self._thread.join()
