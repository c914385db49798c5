"""Clients that go, wait, and do not end; many of them."""

import concurrent.futures
import contextlib
import json
import socket
import threading

import grpc
import pytest
import tritonclient.grpc as over_grpc
from tritonclient.grpc import service_pb2_grpc

from dlrm_jax.serving import grpc_methods, grpc_service, service
from dlrm_jax.serving.http import body, connection
from tests.serving import served
from tests.serving.calls import INFER, check_alive, get, good, post, until
from tests.serving.gates import gate_of
from tests.serving.test_reload import ask, check


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


def test_calls_that_are_cancelled_while_they_wait(small, inputs):
  """What nobody waits for is not computed, and nothing of it is kept."""
  engine = small.service.repository.find('ctr').engine
  gate = gate_of(small, 'ctr')
  request = over_grpc.service_pb2.ModelInferRequest(model_name='ctr')
  for name, kind, array in (
    ('dense', 'FP32', inputs.dense[:4]), ('ids', 'INT32', inputs.ids[:4])
  ):  # fmt: skip
    request.inputs.add(name=name, datatype=kind, shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
  with grpc.insecure_channel(small.grpc) as channel:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    call = stub.ModelInfer.future(request)
    assert gate.called.wait(60)
    stream = stub.ModelStreamInfer(iter([request] * 5))
    lone = stub.ModelInfer.future(request)
    until(lambda: engine.queue_rows == 24)
    stream.cancel()
    lone.cancel()
    until(lambda: small.service.open == 1)
    gate.open.set()
    assert len(call.result(60).outputs) == 2
  until(lambda: not engine.queue_rows)
  check_alive(small)
  assert gate.sizes == [8, 1]  # the first one, and that of `check_alive`
  assert small.service.open == small.service._held == 0


def test_a_client_of_http_that_goes_while_it_waits(small):
  engine = small.service.repository.find('ctr').engine
  gate = gate_of(small, 'ctr')
  host, port = small.http.split(':')
  text = json.dumps(good())
  for _ in range(3):
    with socket.create_connection((host, int(port)), 60) as asking:
      asking.sendall(
        f'POST {INFER} HTTP/1.1\r\nHost: localhost\r\n'
        f'Content-Length: {len(text)}\r\n\r\n{text}'.encode()
      )
      until(lambda: small.service.open)
    until(lambda: not small.service.open)
  gate.open.set()
  check_alive(small)
  assert gate.sizes == [1, 1]  # the first one, and that of `check_alive`
  assert small.service._held == engine.queue_rows == 0


def said(server, *pieces):
  """What the server says to pieces of a request until it closes."""
  host, port = server.http.split(':')
  with socket.create_connection((host, int(port)), 60) as asking:
    for piece in pieces:
      try:
        asking.sendall(piece.encode())
      except OSError:  # it has closed
        break
    found = b''
    try:
      while part := asking.recv(1 << 16):
        found += part
    except ConnectionResetError:
      pass
  return found.decode()


@pytest.fixture
def opened():
  """A function that connects to a server, and does not ask."""
  with contextlib.ExitStack() as stack:
    yield lambda address: stack.enter_context(
      socket.create_connection(address.split(':'), 60)
    )


def test_many_connections(small, opened, monkeypatch):
  """Of those without a request so many stay; what waits is answered."""
  monkeypatch.setattr(connection, '_CONNECTIONS', 5)
  gate = gate_of(small, 'ctr')
  text = json.dumps(good())
  waiting = opened(small.http)
  waiting.sendall(
    f'POST {INFER} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n'
    f'Content-Length: {len(text)}\r\n\r\n{text}'.encode()
  )
  assert gate.called.wait(60)
  others = [opened(small.http) for _ in range(30)]
  assert get(small, '/v2/health/live')[0] == 200
  for one in others[:25]:
    assert one.recv(1) == b''
  others[-1].setblocking(False)
  with pytest.raises(BlockingIOError):
    others[-1].recv(1)
  gate.open.set()
  assert waiting.recv(100).startswith(b'HTTP/1.1 200')


def test_many_connections_with_requests(small, monkeypatch):
  """The server says how it is, and refuses more requests, in JSON."""
  monkeypatch.setattr(service, '_MOST_OPEN', 3)
  gate = gate_of(small, 'ctr')
  text = json.dumps(good())
  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    found = [pool.submit(post, small, text) for _ in range(3)]
    until(lambda: small.service.open == 3)
    status, headers, body = post(small, text)
    assert (status, headers['Retry-After']) == (429, '1')
    assert 'more than 3 requests are open' in json.loads(body)['error']
    for path in ('/v2/health/live', '/v2/health/ready', '/metrics'):
      assert get(small, path)[0] == 200
    gate.open.set()
    assert [x.result(60)[0] for x in found] == [200] * 3


@pytest.fixture
def two_at_a_time(export, monkeypatch):
  """A server that reads two messages of gRPC at a time."""
  monkeypatch.setattr(grpc_methods, 'TOGETHER', 2)
  monkeypatch.setattr(grpc_service, 'TOGETHER', 2)
  with served.serving({'ctr': export}, served.SMALL) as running:
    yield running


@pytest.fixture
def silence():
  """An iterator of messages, of which none comes before the end of a test."""
  end = threading.Event()
  yield iter(end.wait, True)
  end.set()


SERVICE = '/inference.GRPCInferenceService'


def test_messages_of_grpc_that_do_not_come(
  two_at_a_time, silence, inputs, want, monkeypatch
):
  """They hold up others for a while, and are refused then."""
  monkeypatch.setattr(grpc_methods, '_SECONDS', 0.2)
  with (
    grpc.insecure_channel(two_at_a_time.grpc) as channel,
    over_grpc.InferenceServerClient(two_at_a_time.grpc) as client,
  ):
    infer = channel.stream_unary(f'{SERVICE}/ModelInfer')
    silent = [infer.future(silence) for _ in range(4)]
    for call in silent:
      assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
      assert call.details() == 'the message did not come within 0.2 seconds'
    nothing = infer.future(iter(()))
    assert nothing.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert 'the message is no ModelInferRequest' in nothing.details()
    check(ask(client, inputs, 0, 5)[1], want[:5])


def test_calls_that_wait_to_be_read_while_queues_fill(
  export, silence, monkeypatch
):
  """They are refused, too, as soon as it is their turn."""
  checked, check = [], service.Service.check_room
  monkeypatch.setattr(grpc_methods, 'TOGETHER', 2)
  monkeypatch.setattr(
    service.Service, 'check_room', lambda self: checked.append(check(self))
  )
  with (
    served.serving({'ctr': export}, served.SMALL) as server,
    grpc.insecure_channel(server.grpc) as channel,
  ):
    infer = channel.stream_unary(f'{SERVICE}/ModelInfer')
    silent = [infer.future(silence) for _ in range(2)]
    until(lambda: len(checked) == 2)
    third = infer.future(iter([b'never read']))
    until(lambda: len(checked) == 3)
    engine = server.service.repository.find('ctr').engine
    server.call(setattr, engine, '_full', True)
    silent[0].cancel()
    assert third.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert third.details() == 'the queues are full; try again'
    assert ('retry-after', '1') in map(tuple, third.trailing_metadata())
    assert server.service.refused == {'RESOURCE_EXHAUSTED': 1}
    server.call(setattr, engine, '_full', False)
    silent[1].cancel()
    check_alive(server)


def test_more_streams_than_there_may_be(two_at_a_time, silence):
  with grpc.insecure_channel(two_at_a_time.grpc) as channel:
    stream = channel.stream_stream(f'{SERVICE}/ModelStreamInfer')
    first = [stream(silence) for _ in range(2)]
    refused = two_at_a_time.service.refused

    def third():
      call = stream(iter(()))
      return call, call.code()

    until(lambda: third()[1] is grpc.StatusCode.RESOURCE_EXHAUSTED)
    call, _ = third()
    assert call.details() == '2 streams are open; try again'
    assert ('retry-after', '1') in map(tuple, call.trailing_metadata())
    assert refused['RESOURCE_EXHAUSTED'] == 2
    first[0].cancel()
    until(lambda: third()[1] is grpc.StatusCode.OK)


def test_requests_that_do_not_come(small, monkeypatch):
  """A connection, a head and a body have so much time."""
  monkeypatch.setattr(body, '_SECONDS', 0.1)
  monkeypatch.setattr(connection, '_SECONDS', 0.3)
  head = f'POST {INFER} HTTP/1.1\r\nHost: localhost\r\n'
  assert said(small) == ''
  assert said(small, head) == ''
  found = said(small, f'{head}Content-Length: 50\r\n\r\n{{"inputs"')
  assert found.startswith('HTTP/1.1 504')
  assert 'did not come within' in found
  # also where nobody reads it
  found = said(
    small, 'POST /no HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n'
  )
  assert found.startswith('HTTP/1.1 404')
  until(lambda: not small.service.open)
  monkeypatch.undo()
  check_alive(small)


def test_heads_and_trailers_without_end(small):
  """They are not held in memory."""
  lines = 'x: ' + 'x' * 1000 + '\r\n'
  head = f'POST {INFER} HTTP/1.1\r\nHost: localhost\r\n'
  chunked = f'{head}Transfer-Encoding: chunked\r\n\r\n'
  for pieces in (
    (head, *[lines] * 1000),
    (head, 'x: ', *['x' * 1000] * 1000),
    ('GET /', *['x' * 1000] * 1000),
    (chunked, '2\r\n{}\r\n0\r\n', *[lines] * 1000),
    (chunked, '2;', *['x' * 1000] * 1000),
  ):
    found = said(small, *pieces)
    assert not found or found.startswith('HTTP/1.1 400'), found
  until(lambda: not small.service.open)
  whole = json.dumps(good())
  small_chunks = [f'1\r\n{x}\r\n' for x in whole]
  found = said(
    small, f'{head}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n',
    ''.join(small_chunks), '0\r\n\r\n',
  )  # fmt: skip
  assert found.startswith('HTTP/1.1 200'), found
