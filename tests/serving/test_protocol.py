"""Malformed, oversized and half requests; queues that are full; deadlines."""

import concurrent.futures
import gzip
import http.client
import json
import socket
import time
import zlib

import grpc
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from tritonclient.utils import InferenceServerException

from dlrm_jax.serving.grpc_service import _tensors
from dlrm_jax.serving.http.infer import read_request
from dlrm_jax.serving.http.service import HttpService
from dlrm_jax.serving.log import Log
from dlrm_jax.serving.refusal import RefusedError, Why
from dlrm_jax.serving.security import Security
from dlrm_jax.serving.tensors import BYTES, DTYPES, of_bytes, of_json
from dlrm_jax.serving.waiting import Limits
from tests.serving import served
from tests.serving.gates import gate_of, refusal

INFER = '/v2/models/ctr/infer'
KINDS = [*DTYPES, BYTES]


def post(server, body, path=INFER, **headers):
  """Status, headers and body of the answer to a request."""
  connection = http.client.HTTPConnection(server.http, timeout=60)
  names = {name.replace('_', '-'): value for name, value in headers.items()}
  connection.request('POST', path, body, names)
  response = connection.getresponse()
  found = response.status, response.headers, response.read()
  connection.close()
  return found


def good(rows=1):
  return {
    'inputs': [
      {'name': 'dense', 'shape': [rows, 2], 'datatype': 'FP32',
       'data': [0.5, 1] * rows},
      {'name': 'ids', 'shape': [rows, 7], 'datatype': 'INT64',
       'data': [[1] * 7] * rows},
    ]
  }  # fmt: skip


def check_alive(server):
  status, _, body = post(server, json.dumps(good()))
  assert status == 200, body


def values():
  """Any JSON that is not deep."""
  return st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
  )


@st.composite
def almost_good(draw):
  """A request with some parts replaced, and its bytes."""
  request = good(draw(st.integers(1, 3)))
  places = [request, *request['inputs']]
  for _ in range(draw(st.integers(0, 3))):
    place = draw(st.sampled_from(places))
    keys = [*place, 'parameters', 'outputs', 'id', 'datatype']
    key = draw(st.sampled_from(keys))
    place[key] = draw(
      values()
      | st.sampled_from(KINDS)
      | st.just([{'name': 'logit', 'parameters': {'binary_data': 1}}])
      | st.fixed_dictionaries({'binary_data_size': values()})
      | st.fixed_dictionaries({'timeout': values()})
    )
  return json.dumps(request).encode()


@given(
  body=st.binary(max_size=200) | almost_good(),
  tail=st.binary(max_size=80),
  length=st.none() | st.integers(-2, 900).map(str) | st.text(max_size=5),
)
def test_any_body_is_read_or_refused(server, body, tail, length):
  interface = server.service.repository.find('ctr').interface
  message = 'it was read'
  try:
    asked = read_request(body + tail, length)
    interface.question(asked.tensors)
  except RefusedError as error:
    message = str(error)
  assert 0 < len(message) < 1000


@given(
  st.sampled_from(KINDS),
  st.lists(st.integers(-1, 4), max_size=3),
  st.binary(max_size=64),
  st.lists(values(), max_size=6),
)
def test_any_tensor_is_read_or_refused(kind, shape, data, items):
  for read, given_data in ((of_bytes, data), (of_json, items)):
    try:
      tensor = read('x', kind, shape, given_data)
    except RefusedError:
      continue
    size = int(np.prod(shape, dtype=int))
    assert len(np.ravel(tensor.data)) == size
    assert tensor.shape == tuple(shape)


@given(st.data())
def test_any_message_is_read_or_refused(data):
  request = over_grpc.service_pb2.ModelInferRequest()
  for _ in range(data.draw(st.integers(0, 3))):
    tensor = request.inputs.add(
      name=data.draw(st.sampled_from(['dense', 'ids', ''])),
      datatype=data.draw(st.sampled_from([*KINDS, 'BF16', ''])),
      shape=data.draw(st.lists(st.integers(-1, 3), max_size=3)),
    )
    tensor.contents.fp32_contents.extend(
      data.draw(st.lists(st.floats(width=32), max_size=4))
    )
    tensor.contents.int_contents.extend(
      data.draw(st.lists(st.integers(-9, 2**31 - 1), max_size=4))
    )
    tensor.contents.bytes_contents.extend(
      data.draw(st.lists(st.binary(max_size=5), max_size=4))
    )
  request.raw_input_contents.extend(
    data.draw(st.lists(st.binary(max_size=16), max_size=3))
  )
  try:
    found = _tensors(request)
  except RefusedError:
    return
  assert len(found) == len(request.inputs)


BODIES = {
  'nothing': b'',
  'no JSON': b'{"inputs": [',
  'a list': b'[1]',
  'no text': b'\xff\xfe\x00',
  'deep': b'[' * 100_000,
  'a wide number': json.dumps(good()).encode().replace(b'0.5', b'1' * 5000),
  'not a number': json.dumps(good()).encode().replace(b'0.5', b'NaN'),
  'a huge shape': json.dumps(good()).encode().replace(
    b'[1, 2]', b'[99999999, 99999999]'
  ),
  'a bad type': json.dumps(good()).encode().replace(b'FP32', b'FP8'),
}  # fmt: skip


@pytest.mark.parametrize('name', BODIES)
def test_a_bad_body_is_one_line(server, name):
  status, headers, body = post(server, BODIES[name])
  assert status == 400, body
  assert headers['Content-Type'] == 'application/json'
  message = json.loads(body)['error']
  assert '\n' not in message
  assert 10 < len(message) < 1000
  check_alive(server)


def test_a_bad_message_of_grpc(server):
  with grpc.insecure_channel(server.grpc) as channel:
    call = channel.unary_unary('/inference.GRPCInferenceService/ModelInfer')
    with pytest.raises(grpc.RpcError):
      call(b'\xff' * 100, timeout=60)
    unknown = channel.unary_unary('/inference.GRPCInferenceService/Nothing')
    with pytest.raises(grpc.RpcError) as caught:
      unknown(b'', timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
  check_alive(server)


@pytest.mark.parametrize(
  ('path', 'status'),
  [
    ('/v2/models/nothing/infer', 404),
    ('/v2/models/ctr/versions/7/infer', 404),
    ('/v2/models/ctr/versions/../infer', 404),
    ('/v2/repository/models/nothing/load', 404),
    ('/v2/models/ctr/versions/1/infer', 200),
    ('/nothing', 404),
    ('/v2', 405),
  ],
)
def test_paths(server, path, status):
  found, _, body = post(server, json.dumps(good()), path)
  assert found == status, body
  assert (b'"error"' in body) == (status != 200)


PACKED = {
  'not gzip': (b'no gzip', 'gzip', 400),
  'half of gzip': (gzip.compress(b'x' * 5000)[:40], 'gzip', 400),
  'more behind': (zlib.compress(b'{}') + b'more', 'deflate', 400),
  'a bomb': (gzip.compress(bytes(1 << 26)), 'gzip', 413),
  'another packer': (b'{}', 'br', 501),
}


@pytest.mark.parametrize('encoding', ['GZIP', 'Deflate'])
def test_names_of_packers_in_any_case(server, encoding):
  packer = {'GZIP': gzip.compress, 'Deflate': zlib.compress}[encoding]
  asked = good() | {'id': 'x' * 2000}
  status, headers, body = post(
    server,
    packer(json.dumps(asked).encode()),
    Content_Encoding=encoding,
    Accept_Encoding=encoding,
  )
  assert status == 200, body
  assert headers['Content-Encoding'] == encoding.lower()


@pytest.mark.parametrize('name', PACKED)
def test_bad_packed_bodies(server, name):
  body, encoding, status = PACKED[name]
  found, _, answer = post(server, body, Content_Encoding=encoding)
  assert found == status, answer
  check_alive(server)


@pytest.mark.parametrize('chunked', [False, True])
def test_an_oversized_body(server, chunked):
  connection = http.client.HTTPConnection(server.http, timeout=60)
  if chunked:
    parts = iter([bytes(100_000)] * 11)
    connection.request('POST', INFER, parts, encode_chunked=True)
  else:  # it is not sent at all
    connection.putrequest('POST', INFER)
    connection.putheader('Content-Length', str(1 << 40))
    connection.endheaders()
  response = connection.getresponse()
  assert response.status == 413
  assert '--max_body' in json.loads(response.read())['error']
  connection.close()
  with over_grpc.InferenceServerClient(server.grpc) as client:
    tensor = over_grpc.InferInput('dense', [1, 1 << 19], 'FP32')
    tensor.set_data_from_numpy(np.zeros((1, 1 << 19), np.float32))
    with pytest.raises(InferenceServerException, match='RESOURCE_EXHAUSTED'):
      client.infer('ctr', [tensor])
  check_alive(server)


def test_clients_that_stop_half_way(server):
  host, port = server.http.split(':')
  head = f'POST {INFER} HTTP/1.1\r\nHost: localhost\r\n'
  body = json.dumps(good())
  beginnings = [
    head[:20],
    head,
    f'{head}Content-Length: {len(body)}\r\n\r\n',
    f'{head}Content-Length: {len(body)}\r\n\r\n{body[:50]}',
    f'{head}Transfer-Encoding: chunked\r\n\r\n5\r\n{{"inp',
    f'{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n',
    f'{head}Content-Length: -5\r\n\r\n',
  ]
  for beginning in beginnings * 3:
    with socket.create_connection((host, int(port)), 60) as connection:
      connection.sendall(beginning.encode())
  check_alive(server)


@pytest.fixture(scope='module')
def small(export):
  """A server with little room."""
  limits = Limits(max_batch=16, max_delay=0.0, max_queue_rows=32)
  with served.serving({'ctr': export}, limits) as running:
    yield running


def ask(client, inputs, start, stop, **options):
  module = over_grpc if 'grpc' in type(client).__module__ else over_http
  part = type(inputs)(*(None if x is None else x[start:stop] for x in inputs))
  tensors = served.network_tensors(module, part)
  return client.infer('ctr', tensors, **options).as_numpy('probability')


def until(happened):
  end = time.monotonic() + 60
  while not happened():
    assert time.monotonic() < end
    time.sleep(0.002)


def test_a_full_queue_and_deadlines(small, inputs, plain):
  """What does not fit is refused at once; all that waits is answered."""
  want = plain.probabilities(inputs)
  engine = small.service.repository.find('ctr').engine
  program = engine._program
  gate = gate_of(small, 'ctr')
  with (
    concurrent.futures.ThreadPoolExecutor(8) as pool,
    over_grpc.InferenceServerClient(small.grpc) as client,
    over_http.InferenceServerClient(small.http, concurrency=8) as other,
  ):
    found = [(pool.submit(ask, client, inputs, 0, 1), 0, 1)]
    assert gate.called.wait(60)
    found.append((pool.submit(ask, client, inputs, 1, 13), 1, 13))
    until(lambda: engine.queue_rows == 12)
    found.append((pool.submit(ask, client, inputs, 5, 17), 5, 17))
    until(lambda: engine.queue_rows == 24)
    # these expire while they wait, and are told so at once
    for options in ({'client_timeout': 0.05}, {'timeout': 1}):
      with pytest.raises(InferenceServerException, match='DEADLINE_EXCEEDED'):
        ask(client, inputs, 0, 8, **options)
    request = good(8) | {'parameters': {'timeout': 1}}
    status, _, body = post(small, json.dumps(request))
    assert status == 504, body
    assert 'before its answer' in json.loads(body)['error']
    # so that there is room for others
    found.append((pool.submit(ask, client, inputs, 8, 15), 8, 15))
    until(lambda: engine.queue_rows == 31)
    with pytest.raises(InferenceServerException) as caught:
      ask(client, inputs, 0, 2)
    assert 'RESOURCE_EXHAUSTED' in caught.value.status()
    assert '31 rows wait' in str(caught.value)
    status, headers, body = post(small, json.dumps(good(2)))
    assert (status, headers['Retry-After']) == (429, '1'), body
    gate.open.set()
    for future, start, stop in found:
      np.testing.assert_allclose(
        future.result(60), want[start:stop], rtol=0, atol=1e-6
      )
    refused = small.service.repository.find('ctr').statistics.refused
    assert refused['DEADLINE_EXCEEDED'] == 3
    np.testing.assert_allclose(
      ask(other, inputs, 3, 9), want[3:9], rtol=0, atol=1e-6
    )
  assert sum(gate.sizes) == 1 + 16 + 16 + 8 + 8
  engine._program = program


def test_what_comes_to_full_queues_is_refused_unread(small, inputs):
  """So what is in it does not matter."""
  service = small.service
  engine = service.repository.find('ctr').engine
  program = engine._program
  gate = gate_of(small, 'ctr')
  with (
    concurrent.futures.ThreadPoolExecutor(3) as pool,
    over_grpc.InferenceServerClient(small.grpc) as client,
  ):
    found = [pool.submit(ask, client, inputs, 0, 1)]
    assert gate.called.wait(60)
    found += [pool.submit(ask, client, inputs, 0, 16) for _ in range(2)]
    until(lambda: engine.queue_rows == 32)
    with pytest.raises(InferenceServerException, match='32 rows wait already'):
      ask(client, inputs, 0, 1)
    before = service.refused.get('RESOURCE_EXHAUSTED', 0)
    with pytest.raises(InferenceServerException) as caught:
      client.infer('no such model', [])
    assert 'RESOURCE_EXHAUSTED' in caught.value.status()
    assert 'the queues are full' in str(caught.value)
    status, headers, body = post(small, b'no JSON')
    assert (status, headers['Retry-After']) == (429, '1'), body
    assert service.refused['RESOURCE_EXHAUSTED'] == before + 2
    gate.open.set()
    for future in found:
      future.result(60)
  engine._program = program
  check_alive(small)


def test_a_device_that_fails_is_told_and_the_server_stays(small, inputs):
  engine = small.service.repository.find('ctr').engine
  program = engine._program
  gate = gate_of(small, 'ctr', fails=lambda x: True)
  gate.open.set()
  status, _, body = post(small, json.dumps(good()))
  assert status == 500
  assert 'RuntimeError: the device is lost' in json.loads(body)['error']
  with (
    over_grpc.InferenceServerClient(small.grpc) as client,
    pytest.raises(InferenceServerException, match=r'UNAVAILABLE.*device fails'),
  ):
    ask(client, inputs, 0, 1)
  assert '"event": "a batch failed"' in small.log.getvalue()
  engine._program = program
  until(lambda: not engine.failure)  # it is tried each second
  check_alive(small)


def test_a_defect_is_logged_and_the_server_stays(small, monkeypatch):
  def broken(*arguments):
    raise KeyError('a defect')

  interface = type(small.service.repository.find('ctr').interface)
  monkeypatch.setattr(interface, 'question', broken)
  status, _, body = post(small, json.dumps(good()))
  assert status == 500
  assert json.loads(body) == {'error': 'the server failed: KeyError'}
  with (
    over_grpc.InferenceServerClient(small.grpc) as client,
    pytest.raises(InferenceServerException, match='INTERNAL'),
  ):
    client.infer('ctr', [])
  events = map(json.loads, small.log.getvalue().splitlines())
  traces = [x['traceback'] for x in events if x['event'] == 'defect']
  assert len(traces) == 2
  for trace in traces:
    assert 'in broken' in trace
    assert trace.endswith('KeyError\n')
    assert 'a defect' not in trace.replace("raise KeyError('a defect')", '')
  monkeypatch.undo()
  check_alive(small)


def test_requests_that_wait_have_so_many_bytes(small, inputs):
  service = small.service
  engine = service.repository.find('ctr').engine
  program, most = engine._program, service._most_held
  assert most == 32 << 20
  gate = gate_of(small, 'ctr')
  with (
    concurrent.futures.ThreadPoolExecutor(2) as pool,
    over_grpc.InferenceServerClient(small.grpc) as client,
  ):
    first = pool.submit(ask, client, inputs, 0, 1)
    assert gate.called.wait(60)
    service._most_held = service._held + 100
    status, _, body = post(small, json.dumps(good(8)))
    assert status == 429
    assert 'bytes wait already' in json.loads(body)['error']
    gate.open.set()
    first.result(60)
  assert service._held == 0
  engine._program, service._most_held = program, most


def test_texts_take_more_than_their_bytes(small):
  """Of many short ones, which memory they take is counted."""
  service = small.service
  texts = {'price': [''], 'age': [''], 'user': ['5'], 'site': ['ff'],
           'word': ['x'], 'city': [''], 'tags': [''] * 2000}  # fmt: skip
  body = json.dumps(
    {
      'inputs': [
        {'name': name, 'datatype': BYTES, 'shape': [1, len(x)], 'data': x}
        for name, x in texts.items()
      ]
    }
  )
  assert post(small, body)[0] == 200
  most, service._most_held = service._most_held, 10 * len(body)
  status, _, answer = post(small, body)
  service._most_held = most
  assert status == 429
  assert 'bytes wait already' in json.loads(answer)['error']


def test_a_page_of_another_server_is_refused(server):
  body = json.dumps(good())
  for origin, status in (
    ('http://elsewhere.example', 403),
    ('null', 403),
    (f'http://{server.http}', 200),
  ):
    found, _, answer = post(server, body, Origin=origin)
    assert found == status, answer


HOSTS = {'127.0.0.1:80': 200, '[::1]:80': 200, 'localhost': 200,
         'elsewhere.example': 403, 'localhost.example:80': 403,
         '[::1': 403}  # fmt: skip


@pytest.mark.parametrize('host', HOSTS)
def test_names_that_lead_here(server, host):
  """A page that was read under such a name may not unload models."""
  for path in (INFER, '/v2/repository/index'):
    found, _, answer = post(server, json.dumps(good()), path, Host=host)
    assert found == HOSTS[host], answer
    origin = f'http://{host}'
    options = {'Host': host, 'Origin': origin}
    found, _, answer = post(server, json.dumps(good()), path, **options)
    assert found == HOSTS[host], answer


@pytest.mark.parametrize(
  ('host', 'token', 'of_a_program', 'of_a_page'),
  [
    ('127.0.0.1', '', False, False),
    ('0.0.0.0', '', True, False),  # programs know it by any name
    ('ctr.example', '', True, True),
    ('0.0.0.0', 'secret', True, True),
    ('127.0.0.1', 'secret', True, True),
  ],
)
def test_names_of_other_servers(server, host, token, of_a_program, of_a_page):
  security = Security(None, token)
  http_service = HttpService(server.service, 1 << 20, security, host, Log())
  headers = [(b'host', b'ctr.example'), (b'authorization', b'Bearer secret')]
  origin = (b'origin', b'http://ctr.example')
  for some, taken in (
    (headers, of_a_program),
    ([*headers, origin], of_a_page),
  ):
    scope = {'type': 'http', 'path': '/v2', 'headers': some}
    if taken:
      http_service._check(Request(scope))
    else:
      assert refusal(http_service._check, Request(scope)).why is Why.FORBIDDEN


def test_more_rows_than_a_batch(small):
  status, _, body = post(small, json.dumps(good(17)))
  assert status == 400
  assert (
    'a request of 17 rows; expected at most 16' in json.loads(body)['error']
  )


def test_metrics(server, inputs):
  def read():
    connection = http.client.HTTPConnection(server.http, timeout=60)
    connection.request('GET', '/metrics')
    response = connection.getresponse()
    assert response.headers['Content-Type'].startswith('text/plain; version')
    lines = response.read().decode().splitlines()
    connection.close()
    return {
      name: float(value)
      for name, _, value in (
        line.rpartition(' ') for line in lines if line[0] != '#'
      )
    }

  before = read()
  with over_http.InferenceServerClient(server.http) as client:
    ask(client, inputs, 0, 3)
  row = {
    'price': [1], 'age': [1], 'user': [777], 'site': ['ff'], 'word': ['x'],
    'city': [''], 'tags': ['tag1'],
  }  # fmt: skip
  kinds = {'price': 'FP32', 'age': 'FP32', 'user': 'INT64'}
  request = {
    'inputs': [
      {'name': name, 'shape': [1], 'datatype': kinds.get(name, BYTES),
       'data': data}
      for name, data in row.items()
    ]
  }  # fmt: skip
  status, _, body = post(server, json.dumps(request))
  assert status == 200, body
  assert post(server, b'{}')[0] == 400
  assert post(server, b'{}', '/v2/models/nothing/infer')[0] == 404
  after = read()
  label = 'model="ctr",version="1"'
  grown = {
    f'dlrm_requests_total{{{label}}}': 2,
    f'dlrm_rows_total{{{label}}}': 4,
    f'dlrm_refusals_total{{{label},status="INVALID_ARGUMENT"}}': 1,
    'dlrm_refusals_total{model="",version="",status="NOT_FOUND"}': 1,
    f'dlrm_unknown_ids_total{{feature="user",{label}}}': 1,
    f'dlrm_batch_rows_bucket{{le="1.0",{label}}}': 1,
    f'dlrm_batch_rows_count{{{label}}}': 2,
    f'dlrm_request_seconds_count{{{label},stage="total"}}': 2,
    f'dlrm_queue_rows{{{label}}}': 0,
  }
  by_labels = {frozenset_of(name): value for name, value in after.items()}
  earlier = {frozenset_of(name): value for name, value in before.items()}
  for name, count in grown.items():
    key = frozenset_of(name)
    assert by_labels[key] - earlier.get(key, 0) == count, name
  assert after['dlrm_ready'] == 1
  stages = {
    dict(label.split('=') for label in labels)['stage'].strip('"')
    for name, labels in by_labels
    if name == 'dlrm_request_seconds_sum'
  }
  assert stages == {'queue', 'coding', 'compute', 'total'}


def frozenset_of(name):
  """A name of a series, whatever the order of its labels."""
  name, _, labels = name.rstrip('}').partition('{')
  return name, frozenset(labels.split(','))


def test_a_refusal_without_a_model_is_counted(server):
  error = refusal(server.service.repository.find, 'x' * 500)
  assert len(str(error)) < 200
