"""The official clients, unchanged: HTTP and gRPC, binary and JSON."""

import asyncio
import json
import queue

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from tritonclient.utils import InferenceServerException

from dlrm_jax.errors import InputError
from dlrm_jax.scoring.load import load
from dlrm_jax.serving import Client
from tests import scored
from tests.serving import served
from tests.serving.gates import gate_of

MODULES = {'grpc': over_grpc, 'http': over_http}
AIO = {'grpc': over_grpc_aio, 'http': over_http_aio}


@pytest.fixture(scope='module')
def rows(plain):
  """Rows of the log without missing numbers."""
  schema = load(plain.folder).intake.schema
  found = [row for row in scored.rows_of(5) if row['user'] != '']
  for row in found:
    row['price'] = row['price'] or 0
  return scored.columns_of(found[:50], schema)


@pytest.fixture(params=MODULES)
def protocol(request):
  return request.param


@pytest.fixture
def client(server, protocol):
  address = getattr(server, protocol)
  with MODULES[protocol].InferenceServerClient(address) as client:
    yield client


def check(result, want):
  """The outputs of a result are those of a model."""
  probability = result.as_numpy('probability')
  assert probability.dtype == np.float32
  np.testing.assert_allclose(probability, want, rtol=0, atol=1e-6)
  logit = result.as_numpy('logit').astype(np.float64)
  np.testing.assert_allclose(1 / (1 + np.exp(-logit)), want, rtol=0, atol=1e-6)


def some(inputs, start, stop):
  return type(inputs)(*(None if x is None else x[start:stop] for x in inputs))


@pytest.mark.parametrize('count', [1, 7, 64])
def test_rows_as_the_network_takes_them(client, protocol, inputs, want, count):
  tensors = served.network_tensors(MODULES[protocol], some(inputs, 0, count))
  result = client.infer('ctr', tensors, request_id='a name')
  check(result, want[:count])
  response = result.get_response()
  if protocol == 'grpc':
    assert (response.id, response.model_version) == ('a name', '1')
  else:
    assert (response['id'], response['model_version']) == ('a name', '1')


@pytest.mark.parametrize('binary', [True, False])
@pytest.mark.parametrize('packed', [None, 'gzip', 'deflate'])
def test_bodies_of_http(server, inputs, want, binary, packed):
  few = some(inputs, 0, 40)
  outputs = [
    over_http.InferRequestedOutput('probability', binary_data=binary),
    over_http.InferRequestedOutput('logit', binary_data=not binary),
  ]
  tensors = served.network_tensors(over_http, few)
  # JSON and bytes in one request, too
  tensors[0].set_data_from_numpy(few.dense, binary_data=binary)
  if not binary:
    tensors[1].set_data_from_numpy(few.ids, binary_data=False)
  with over_http.InferenceServerClient(server.http) as client:
    result = client.infer(
      'ctr',
      tensors,
      outputs=outputs,
      request_compression_algorithm=packed,
      response_compression_algorithm=packed,
    )
  check(result, want[:40])


def test_packed_messages_of_grpc(server, inputs, want):
  with over_grpc.InferenceServerClient(server.grpc) as client:
    tensors = served.network_tensors(over_grpc, some(inputs, 0, 40))
    result = client.infer('ctr', tensors, compression_algorithm='gzip')
  check(result, want[:40])


def test_typed_contents_of_grpc(server, inputs, want):
  """Numbers in the fields of the message, as other clients send them."""
  service_pb2 = over_grpc.service_pb2
  few = some(inputs, 0, 3)
  request = service_pb2.ModelInferRequest(model_name='ctr')
  for name, kind, array in (
    ('dense', 'FP32', few.dense),
    ('ids', 'INT64', few.ids),
  ):
    tensor = request.inputs.add(name=name, datatype=kind, shape=array.shape)
    field = 'fp32_contents' if kind == 'FP32' else 'int64_contents'
    getattr(tensor.contents, field).extend(array.ravel().tolist())
  with over_grpc.InferenceServerClient(server.grpc) as client:
    response = client._client_stub.ModelInfer(request)
  check(over_grpc.InferResult(response), want[:3])


def test_rows_of_raw_values(server, client, protocol, plain, rows):
  interface = server.service.repository.find('ctr').interface
  tensors = served.column_tensors(MODULES[protocol], rows, interface)
  check(client.infer('ctr', tensors), load(plain.folder).predict(rows)[:, None])


def test_only_the_output_that_is_asked_for(client, protocol, inputs, want):
  module = MODULES[protocol]
  tensors = served.network_tensors(module, some(inputs, 0, 2))
  outputs = [module.InferRequestedOutput('logit')]
  result = client.infer('ctr', tensors, outputs=outputs)
  assert result.as_numpy('probability') is None
  logit = result.as_numpy('logit')
  np.testing.assert_allclose(1 / (1 + np.exp(-logit)), want[:2], atol=1e-6)


def test_several_tasks(server, client, protocol, two_labels):
  inputs = some(scored.blocks_of(two_labels.data, 'test'), 0, 30)
  tensors = served.network_tensors(MODULES[protocol], inputs)
  want = two_labels.probabilities(inputs)
  assert want.shape == (30, 2)
  check(client.infer('two', tensors), want)


def test_weights_of_ids(server, client, protocol, weighted):
  inputs = some(scored.blocks_of(weighted.data, 'test'), 0, 30)
  tensors = served.network_tensors(MODULES[protocol], inputs)
  assert len(tensors) == 3
  check(client.infer('bags', tensors), weighted.probabilities(inputs))


def test_one_user_and_many_items(server, client, protocol, plain, rows):
  """Tensors of one row stand for as many as the others have."""
  interface = server.service.repository.find('ctr').interface
  one = {name: values[:1] for name, values in rows.items()}
  ranked = one | {name: rows[name] for name in ('word', 'tags')}
  equal = one | {name: values[:1] * 50 for name, values in rows.items()}
  equal |= {name: rows[name] for name in ('word', 'tags')}
  tensors = served.column_tensors(MODULES[protocol], ranked, interface)
  want = load(plain.folder).predict(equal)[:, None]
  check(client.infer('ctr', tensors), want)


def test_one_row_of_dense_features_for_many_of_ids(
  server, client, protocol, plain, inputs
):
  sent = inputs._replace(dense=inputs.dense[:1], ids=inputs.ids[:9])
  same = sent._replace(dense=np.repeat(sent.dense, 9, 0))
  tensors = served.network_tensors(MODULES[protocol], sent)
  check(client.infer('ctr', tensors), plain.probabilities(same))


@pytest.mark.parametrize('protocol', AIO)
def test_asynchronous_clients(server, protocol, inputs, want):
  async def ask():
    module = AIO[protocol]
    async with module.InferenceServerClient(getattr(server, protocol)) as own:

      async def one(start):
        part = some(inputs, start, start + 1 + start % 5)
        tensors = served.network_tensors(MODULES[protocol], part)
        result = await own.infer('ctr', tensors)
        check(result, want[start : start + 1 + start % 5])

      await asyncio.gather(*map(one, range(40)))

  asyncio.run(ask())


def test_callbacks_of_both_clients(server, inputs, want):
  results = queue.Queue()
  with over_grpc.InferenceServerClient(server.grpc) as client:
    tensors = served.network_tensors(over_grpc, some(inputs, 0, 4))
    client.async_infer(
      'ctr', tensors, lambda result, error: results.put((result, error))
    )
    result, error = results.get(timeout=60)
  assert error is None
  check(result, want[:4])
  with over_http.InferenceServerClient(server.http, concurrency=4) as client:
    tensors = served.network_tensors(over_http, some(inputs, 0, 4))
    asked = [client.async_infer('ctr', tensors) for _ in range(8)]
    for request in asked:
      check(request.get_result(), want[:4])


def test_a_stream_answers_in_its_order(server, inputs, want):
  results = queue.Queue()
  with over_grpc.InferenceServerClient(server.grpc) as client:
    client.start_stream(lambda result, error: results.put((result, error)))
    for number in range(30):
      part = some(inputs, number, number + 1)
      tensors = served.network_tensors(over_grpc, part)
      name = 'ctr' if number != 13 else 'nothing'
      client.async_stream_infer(name, tensors, request_id=str(number))
    found = [results.get(timeout=60) for _ in range(30)]
    client.stop_stream()
  for number, (result, error) in enumerate(found):
    if number == 13:
      assert 'no model' in str(error)
      continue
    assert error is None
    response = result.get_response()
    assert response.id == str(number)
    assert response.parameters['triton_final_response'].bool_param
    check(result, want[number : number + 1])


def as_json(found):
  """What a client of either protocol says, as JSON."""
  return found if isinstance(found, dict | list) else json.loads(found)


def asked(client, protocol, call, *arguments):
  """The answer to a call, as a dict."""
  options = {'as_json': True} if protocol == 'grpc' else {}
  return getattr(client, call)(*arguments, **options)


def test_health(client):
  assert client.is_server_live()
  assert client.is_server_ready()
  assert client.is_model_ready('ctr')
  assert client.is_model_ready('ctr', '1')
  assert not client.is_model_ready('ctr', '2')
  assert not client.is_model_ready('nothing')


def test_metadata(client, protocol):
  about = asked(client, protocol, 'get_server_metadata')
  assert about['name'] == 'dlrm_jax'
  assert 'binary_tensor_data' in about['extensions']
  found = asked(client, protocol, 'get_model_metadata', 'ctr')
  assert (found['name'], found['versions']) == ('ctr', ['1'])
  inputs = {
    x['name']: (x['datatype'], list(map(int, x['shape'])))
    for x in found['inputs']
  }
  assert inputs == {
    'dense': ('FP32', [-1, 2]),
    'ids': ('INT32', [-1, 7]),
    'price': ('FP32', [-1, 1]),
    'age': ('FP32', [-1, 1]),
    'user': ('INT64', [-1, 1]),
    'site': ('BYTES', [-1, 1]),
    'word': ('BYTES', [-1, 1]),
    'city': ('BYTES', [-1, 1]),
    'tags': ('BYTES', [-1, -1]),
  }
  outputs = [(x['name'], x['datatype']) for x in found['outputs']]
  assert outputs == [('probability', 'FP32'), ('logit', 'FP32')]


def test_configuration(client, protocol, export):
  found = asked(client, protocol, 'get_model_config', 'ctr')
  assert str(export) not in json.dumps(found)
  config = found['config'] if protocol == 'grpc' else found
  assert config['max_batch_size'] == served.LIMITS.max_batch
  sizes = config['dynamic_batching']['preferred_batch_size']
  assert list(map(int, sizes)) == [1, 8, 16, 32, 64]
  tags = next(x for x in config['input'] if x['name'] == 'tags')
  assert tags['data_type'] == 'TYPE_STRING'
  assert list(map(int, tags['dims'])) == [-1]
  assert tags['optional'] is True
  parameters = {
    name: json.loads(value['string_value'])
    for name, value in config['parameters'].items()
  }
  assert parameters.keys() == {
    *('column_inputs', 'labels', 'network_inputs', 'step')
  }
  assert parameters['network_inputs'] == ['dense', 'ids']
  assert parameters['column_inputs'][:2] == ['price', 'age']


def test_statistics(server, client, protocol, inputs):
  def count():
    call = 'get_inference_statistics'
    (found,) = asked(client, protocol, call, 'two')['model_stats']
    stats = found['inference_stats']
    return (
      int(found.get('inference_count', 0)),
      int(found.get('execution_count', 0)),
      *(int(stats[x].get('count', 0)) for x in ('success', 'fail')),
      int(stats['compute_infer'].get('ns', 0)),
    )

  before = count()
  tensors = served.network_tensors(MODULES[protocol], some(inputs, 0, 5))
  client.infer('two', tensors)
  with pytest.raises(InferenceServerException):
    client.infer('two', tensors[:1])
  after = count()
  grown = [b - a for a, b in zip(before, after, strict=True)]
  assert grown[:4] == [5, 1, 1, 1]
  assert grown[4] > 0
  all_models = asked(client, protocol, 'get_inference_statistics')
  names = [x['name'] for x in all_models['model_stats']]
  assert names == ['ctr', 'two', 'bags']


def test_repository(client, protocol):
  index = asked(client, protocol, 'get_model_repository_index')
  found = index.get('models', []) if protocol == 'grpc' else index
  ready = {x['name']: x['state'] for x in found}
  assert ready == dict.fromkeys(['ctr', 'two', 'bags'], 'READY')
  client.unload_model('two')
  assert not client.is_model_ready('two')
  assert client.is_server_ready()  # for somebody wanted it so
  with pytest.raises(InferenceServerException, match='two is not served'):
    client.infer('two', [])
  client.load_model('two')
  assert client.is_model_ready('two')
  with pytest.raises(InferenceServerException, match='there is no model'):
    client.load_model('etc')
  with pytest.raises(InferenceServerException, match='from their folders'):
    client.load_model('two', config='{}')


def test_what_there_is_not(client, protocol, inputs):
  tensors = served.network_tensors(MODULES[protocol], some(inputs, 0, 1))
  for options, words in (
    ({'sequence_id': 7}, 'no sequences'),
    ({'priority': 3}, 'no priorities'),
  ):
    with pytest.raises(InferenceServerException, match=words):
      client.infer('ctr', tensors, **options)
  output = MODULES[protocol].InferRequestedOutput('logit', class_count=2)
  with pytest.raises(InferenceServerException, match='no classes'):
    client.infer('ctr', tensors, outputs=[output])
  tensors[0].set_shared_memory('region', 8)
  with pytest.raises(InferenceServerException, match='no shared memory'):
    client.infer('ctr', tensors)


@pytest.mark.parametrize('name', ['plain', 'two_labels', 'weighted'])
def test_our_client(server, name, request):
  run = request.getfixturevalue(name)
  model = load(run.folder)
  hosted = {'plain': 'ctr', 'two_labels': 'two', 'weighted': 'bags'}[name]
  client = Client(server.grpc, hosted)
  schema = model.intake.schema
  rows = scored.rows_of(6, 150)  # more than a batch, numbers are missing
  lists = scored.columns_of(rows, schema)
  want = model.predict(lists)
  found = client.predict(lists)
  assert found.shape == want.shape
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)
  frame = scored.frame_of(rows, schema)
  np.testing.assert_array_equal(client.predict(frame), found)
  text = {n: [str(row[n]) for row in rows] for n in schema.names}
  np.testing.assert_allclose(client.predict(text), want, rtol=0, atol=1e-6)
  nothing = {name: [] for name in schema.names}
  assert client.predict(nothing).shape == model.predict(nothing).shape


def test_our_client_waits_so_long_and_ends(export, rows):
  with (
    served.serving({'ctr': export}) as own,
    Client(own.grpc, timeout=1.0) as client,
  ):
    assert len(client.predict(rows)) > 1
    gate = gate_of(own, 'ctr')
    with pytest.raises(InferenceServerException, match='Deadline Exceeded'):
      client.predict(rows)
    gate.open.set()
    client.close()
    with pytest.raises(ValueError, match='closed channel'):
      client.predict(rows)


def test_mistakes_of_our_client(server, rows, tmp_path):
  """They are told in one line, by the client or by the server."""
  client = Client(server.grpc, 'ctr')
  one = {name: values[:1] for name, values in rows.items()}
  for value, words in ((2**70, 'not an integer'), (5.5, 'not an integer')):
    with pytest.raises(InferenceServerException, match=words):
      client.predict(one | {'user': [value]})
  huge = {'price': [2**70]}  # a number that FP64 holds
  assert client.predict(one | huge).shape == (1,)
  with pytest.raises(InputError, match='no such file'):
    Client(server.grpc, 'ctr', tls=str(tmp_path / 'nothing'))
  with pytest.raises(InputError, match=r'timeout=0: .*above 0'):
    Client(server.grpc, 'ctr', timeout=0)
