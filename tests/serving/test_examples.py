"""The calls of tritonclient's examples, and of perf_analyzer, in their order.

The examples ask a model `simple`; here they ask ours. Each test names those
whose calls it makes: `simple_[http|grpc]_[aio_]...` of
github.com/triton-inference-server/client, src/python/examples.
"""

import asyncio
import gc
import http.client
import inspect
import json
import queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from dlrm_jax.scoring.load import load
from dlrm_jax.serving.waiting import Limits
from tests import scored
from tests.serving import served
from tests.serving.test_clients import check, rows, some

__all__ = ['rows']  # a fixture
CLIENTS = {
  'http': over_http, 'grpc': over_grpc,
  'http aio': over_http_aio, 'grpc aio': over_grpc_aio,
}  # fmt: skip
MODULES = {'http': over_http, 'grpc': over_grpc}


@pytest.fixture(scope='module')
def inputs(plain):
  return some(scored.blocks_of(plain.data, 'test'), 0, 16)


@pytest.fixture(scope='module')
def want(plain, inputs):
  return plain.probabilities(inputs)


class Asking:
  """A client of any kind.

  Attributes:
    protocol: 'http' or 'grpc'.
    module: with the classes of tensors.
  """

  def __init__(self, name, server):
    self.protocol = name.partition(' ')[0]
    self.module = MODULES[self.protocol]
    self.address = getattr(server, self.protocol)
    self.client = CLIENTS[name].InferenceServerClient(self.address)

  async def __call__(self, call, *arguments, **options):
    """The result of a call; of gRPC a message, of HTTP a dict."""
    found = getattr(self.client, call)(*arguments, **options)
    return await found if inspect.isawaitable(found) else found

  async def refused(self, words, call, *arguments, **options):
    """A call that must be refused with these words, in one line."""
    with pytest.raises(InferenceServerException, match=words) as caught:
      await self(call, *arguments, **options)
    assert '\n' not in caught.value.message()


@pytest.fixture(scope='module')
def tiny(export):
  """A server whose model is soon compiled."""
  limits = Limits(max_batch=1, max_delay=0.0, max_queue_rows=8)
  with served.serving({'ctr': export}, limits) as running:
    yield running


@pytest.fixture(params=CLIENTS)
def run(request, server):
  """Runs a sequence of calls with each kind of client."""

  def run(sequence, server=server):
    async def running():
      ask = Asking(request.param, server)
      try:
        await sequence(ask)
      finally:
        await ask('close')

    asyncio.run(running())
    gc.collect()  # a connection that was not closed warns

  return run


def test_infer(run, inputs, want):
  """`infer_client`, `custom_args_client`: outputs that are named, and not."""

  async def calls(ask):
    grpc = ask.protocol == 'grpc'
    tensors = served.network_tensors(ask.module, inputs)
    forms = [{}, {}] if grpc else [{'binary_data': x} for x in (True, False)]
    outputs = [
      ask.module.InferRequestedOutput(name, **form)
      for name, form in zip(('probability', 'logit'), forms, strict=True)
    ]
    for pack in (None, 'gzip', 'deflate'):
      options = (
        {'compression_algorithm': pack}
        if grpc
        else {
          'request_compression_algorithm': pack,
          'response_compression_algorithm': pack,
        }
      )
      options |= {'headers': {'test': '1'}, 'request_id': '1'}
      result = await ask('infer', 'ctr', tensors, outputs=outputs, **options)
      check(result, want)
      check(await ask('infer', 'ctr', tensors, **options), want)
    stats = await ask('get_inference_statistics', model_name='ctr')
    models = stats.model_stats if grpc else stats['model_stats']
    assert len(models) == 1
    words = 'there is no model .wrong_model_name'
    await ask.refused(words, 'infer', 'wrong_model_name', tensors)
    check(await ask('infer', 'ctr', tensors), want)

  run(calls)


def test_health_and_metadata(run):
  """`health_metadata`."""

  async def calls(ask):
    grpc = ask.protocol == 'grpc'
    options = {'headers': {'test': '1', 'dummy': '2'}}
    if not grpc:
      options['query_params'] = {'test_1': '1', 'test_2': '2'}
    assert await ask('is_server_live', **options)
    assert await ask('is_server_ready')
    assert await ask('is_model_ready', 'ctr')

    def name(found):
      return found.name if grpc else found['name']

    assert name(await ask('get_server_metadata')) == 'dlrm_jax'
    assert name(await ask('get_model_metadata', 'ctr', **options)) == 'ctr'
    words = 'there is no model .wrong_model_name'
    await ask.refused(words, 'get_model_metadata', 'wrong_model_name')
    config = await ask('get_model_config', 'ctr')
    assert name(config.config if grpc else config) == 'ctr'
    await ask.refused(words, 'get_model_config', 'wrong_model_name')

  run(calls)


def test_model_control(run, tiny):
  """`model_control`; a model's configuration and files are its own."""

  async def calls(ask):
    index = await ask('get_model_repository_index')
    assert len(index.models if ask.protocol == 'grpc' else index) == 1
    await ask('load_model', 'ctr')
    assert await ask('is_model_ready', 'ctr')
    words = 'models are loaded from their folders alone'
    for options in (
      {'config': '{"max_batch_size": "16"}'},
      {'config': 'no JSON'},
      {'config': '{}', 'files': {'file:' + 'A' * 256: b'a'}},
    ):
      await ask.refused(words, 'load_model', 'ctr', **options)
    assert await ask('is_server_live')
    await ask('unload_model', 'ctr')
    assert not await ask('is_model_ready', 'ctr')
    await ask.refused('there is no model', 'load_model', 'wrong_model_name')
    await ask('load_model', 'ctr')
    assert await ask('is_model_ready', 'ctr')

  run(calls, tiny)


def test_texts(run, server, plain, rows):
  """`string_infer_client`: texts in arrays of objects."""

  async def calls(ask):
    texts = {
      name: np.array(
        [
          '|'.join(map(str, x if isinstance(x, list) else [x]))
          for x in ('' if x is None else x for x in values)
        ],
        np.object_,
      )
      for name, values in rows.items()
    }
    tensors = []
    for name, array in texts.items():
      tensors.append(ask.module.InferInput(name, array.shape, 'BYTES'))
      tensors[-1].set_data_from_numpy(array)
    want = load(plain.folder).predict(rows)[:, None]
    check(await ask('infer', 'ctr', tensors), want)

  run(calls)


def test_what_a_server_may_lack(run, inputs):
  """`sequence_sync`, `shm`, `cudashm`, `image_client`; traces and logs."""

  async def calls(ask):
    tensors = served.network_tensors(ask.module, inputs)
    for name in (1, 'a name'):
      start = {'sequence_id': name, 'sequence_start': True}
      await ask.refused('no sequences', 'infer', 'ctr', tensors, **start)
    output = ask.module.InferRequestedOutput('logit', class_count=3)
    await ask.refused('no classes', 'infer', 'ctr', tensors, outputs=[output])
    memory = 'there is no shared memory'
    await ask.refused(memory, 'unregister_system_shared_memory')
    await ask.refused(memory, 'unregister_cuda_shared_memory')
    await ask.refused(
      memory, 'register_system_shared_memory', 'input', '/input', 64
    )
    await ask.refused(
      memory, 'register_cuda_shared_memory', 'input', b'aGFuZGxl', 0, 64
    )
    await ask.refused(memory, 'get_system_shared_memory_status')
    await ask.refused(memory, 'get_cuda_shared_memory_status')
    output = ask.module.InferRequestedOutput('logit')
    output.set_shared_memory('output', 64)
    await ask.refused(memory, 'infer', 'ctr', tensors, outputs=[output])
    tensors[0].set_shared_memory('input', 64)
    await ask.refused(memory, 'infer', 'ctr', tensors)
    await ask.refused('not traced', 'get_trace_settings')
    await ask.refused('not traced', 'get_trace_settings', 'ctr')
    await ask.refused(
      'not traced', 'update_trace_settings', settings={'trace_level': ['OFF']}
    )
    await ask.refused('cannot be set', 'get_log_settings')
    await ask.refused(
      'cannot be set', 'update_log_settings', {'log_verbose_level': 1}
    )

  run(calls)


def test_tensors_that_are_used_again(run, inputs, want):
  """`reuse_infer_objects_client`, without its shared memory."""

  async def calls(ask):
    tensors = served.network_tensors(ask.module, inputs)
    outputs = [
      ask.module.InferRequestedOutput(name) for name in ('probability', 'logit')
    ]
    for dense in (inputs.dense, inputs.dense[::-1].copy(), inputs.dense):
      tensors[0].set_data_from_numpy(dense)
      result = await ask('infer', 'ctr', tensors, outputs=outputs)
    check(result, want)

  run(calls)


def test_many_at_a_time(server, inputs, want):
  """`http_async_infer_client`, `grpc_async_infer_client`."""
  tensors = served.network_tensors(over_http, inputs)
  with over_http.InferenceServerClient(server.http, concurrency=2) as client:
    asked = [
      client.async_infer('ctr', tensors, query_params={'test_1': 1})
      for _ in range(2)
    ]
    for one in asked:
      check(one.get_result(timeout=60), want)
  results = queue.Queue()
  tensors = served.network_tensors(over_grpc, inputs)
  with over_grpc.InferenceServerClient(server.grpc) as client:
    client.async_infer(
      model_name='ctr',
      inputs=tensors,
      callback=lambda result, error: results.put((result, error)),
      client_timeout=60,
    )
    result, error = results.get(timeout=60)
    assert error is None
    check(result, want)
    context = client.async_infer('ctr', tensors, lambda result, error: None)
    context.cancel()


def test_channels_with_settings(server, inputs, want):
  """`grpc_custom_args_client`, `grpc_keepalive_client`."""
  tensors = served.network_tensors(over_grpc, inputs)
  options = over_grpc.KeepAliveOptions(
    keepalive_time_ms=2**31 - 1,
    keepalive_timeout_ms=20_000,
    keepalive_permit_without_calls=False,
    http2_max_pings_without_data=2,
  )
  arguments = [('grpc.primary_user_agent', 'a client')]
  for more in ({'keepalive_options': options}, {'channel_args': arguments}):
    with over_grpc.InferenceServerClient(server.grpc, **more) as client:
      check(client.infer('ctr', tensors, headers={'test': '1'}), want)


def test_streams(server, inputs, want):
  """`grpc_custom_repeat`, `grpc_sequence_stream_infer_client`."""
  results = queue.Queue()
  tensors = served.network_tensors(over_grpc, inputs)
  with over_grpc.InferenceServerClient(server.grpc) as client:
    client.start_stream(lambda result, error: results.put((result, error)))
    client.async_stream_infer(
      'ctr', tensors, enable_empty_final_response=True, request_id='1'
    )
    client.async_stream_infer(
      'ctr', tensors, sequence_id=1000, sequence_start=True, request_id='2'
    )
    client.async_stream_infer('ctr', tensors, request_id='3')
    first, second, third = (results.get(timeout=60) for _ in range(3))
  for result, error in (first, third):
    assert error is None
    check(result, want)
  assert 'no sequences' in str(second[1])

  async def asynchronous():
    async with over_grpc_aio.InferenceServerClient(server.grpc) as own:

      async def requests():
        for number in range(3):
          yield {
            'model_name': 'ctr',
            'inputs': tensors,
            'request_id': f'{number}',
            'sequence_id': number % 2,
          }

      return [found async for found in own.stream_infer(requests())]

  first, second, third = asyncio.run(asynchronous())
  for result, error in (first, third):
    assert error is None
    check(result, want)
  assert 'no sequences' in str(second[1])


def test_messages_without_a_client(server, inputs, want, rows):
  """`grpc_client`, `grpc_explicit_int_content_client`, `..._byte_...`."""
  with grpc.insecure_channel(server.grpc) as channel:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    assert stub.ServerLive(service_pb2.ServerLiveRequest()).live
    assert stub.ServerReady(service_pb2.ServerReadyRequest()).ready
    one = {'name': 'ctr', 'version': ''}
    assert stub.ModelReady(service_pb2.ModelReadyRequest(**one)).ready
    assert stub.ServerMetadata(service_pb2.ServerMetadataRequest()).extensions
    found = stub.ModelMetadata(service_pb2.ModelMetadataRequest(**one))
    assert found.name == 'ctr'
    config = stub.ModelConfig(service_pb2.ModelConfigRequest(**one)).config
    assert config.name == 'ctr'
    request = service_pb2.ModelInferRequest(model_name='ctr', id='my id')
    for name, kind, array in (
      ('dense', 'FP32', inputs.dense), ('ids', 'INT32', inputs.ids)
    ):  # fmt: skip
      request.inputs.add(name=name, datatype=kind, shape=array.shape)
      request.raw_input_contents.append(array.tobytes())
    for name in ('probability', 'logit'):
      request.outputs.add(name=name)
    check(over_grpc.InferResult(stub.ModelInfer(request)), want)
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend(inputs.dense.ravel())
    request.inputs[1].contents.int_contents.extend(inputs.ids.ravel())
    check(over_grpc.InferResult(stub.ModelInfer(request)), want)
    request.raw_input_contents.append(inputs.dense.tobytes())
    with pytest.raises(grpc.RpcError) as caught:
      stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_bodies_without_a_client(server, inputs, want):
  """Bodies that the client writes and reads, sent by another program."""
  Client = over_http.InferenceServerClient
  tensors = served.network_tensors(over_http, inputs)
  body, length = Client.generate_request_body(tensors)
  asking = http.client.HTTPConnection(server.http, timeout=60)
  headers = {'Inference-Header-Content-Length': str(length)}
  asking.request('POST', '/v2/models/ctr/infer', body, headers)
  response = asking.getresponse()
  given = response.headers['Inference-Header-Content-Length']
  found = Client.parse_response_body(
    response.read(), header_length=given and int(given)
  )
  asking.close()
  check(found, want)


@pytest.mark.parametrize('protocol', MODULES)
def test_perf_analyzer(server, protocol, inputs, want):
  """It describes the model, reads the counts, and asks as fast as it may.

  Inputs are optional, so that its `--input-data` may have one set of them.
  """
  module = MODULES[protocol]
  with module.InferenceServerClient(getattr(server, protocol)) as client:
    options = {'as_json': True} if protocol == 'grpc' else {}
    assert client.get_server_metadata(**options)['extensions']
    metadata = client.get_model_metadata('ctr', '1', **options)
    config = client.get_model_config('ctr', '1', **options)
    config = config.get('config', config)
    assert int(config['max_batch_size']) > 1
    assert 'dynamic_batching' in config
    assert 'sequence_batching' not in config
    for side in ('inputs', 'outputs'):
      shapes = {x['name']: x['shape'] for x in metadata[side]}
      for tensor in config[side[:-1]]:
        assert tensor['dims'] == shapes.pop(tensor['name'])[1:]
        assert side == 'outputs' or tensor['optional']
      assert not shapes

    def count():
      stats = client.get_inference_statistics('ctr', '1', **options)
      (found,) = stats['model_stats']
      stages = found['inference_stats']
      assert stages.keys() >= {
        'success', 'queue', 'compute_input', 'compute_infer', 'compute_output',
        'cache_hit', 'cache_miss',
      }  # fmt: skip
      return int(found['inference_count']), int(found['execution_count'])

    client.infer('ctr', served.network_tensors(module, inputs))
    rows, batches = count()
    for _ in range(3):
      tensors = served.network_tensors(module, inputs)
      outputs = [
        module.InferRequestedOutput(x['name']) for x in metadata['outputs']
      ]
      check(client.infer('ctr', tensors, '1', outputs=outputs), want)
    assert count() == (rows + 48, batches + 3)


def test_perf_analyzer_in_json(server, inputs, want):
  """As it sends with `--input-tensor-format=json`: flat lists."""
  asked = {
    'inputs': [
      {'name': name, 'datatype': kind, 'shape': array.shape,
       'data': array.ravel().tolist()}
      for name, kind, array in (
        ('dense', 'FP32', inputs.dense), ('ids', 'INT32', inputs.ids)
      )
    ],
    'outputs': [
      {'name': name, 'parameters': {'binary_data': False}}
      for name in ('probability', 'logit')
    ],
  }  # fmt: skip
  asking = http.client.HTTPConnection(server.http, timeout=60)
  path = '/v2/models/ctr/versions/1/infer'
  asking.request('POST', path, json.dumps(asked), {'Expect': ''})
  response = asking.getresponse()
  body = response.read()
  asking.close()
  assert response.headers['Inference-Header-Content-Length'] is None
  check(over_http.InferenceServerClient.parse_response_body(body), want)
