"""The device fails, a reload is killed, clients stop: the server stays up."""

import concurrent.futures
import contextlib
import http.client
import json
import logging
import os
import shutil
import signal
import socket
import threading

import grpc
import jax
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from dlrm_jax.serving import grpc_methods, grpc_service, log, service
from dlrm_jax.serving.coding import Coding
from dlrm_jax.serving.http import body, connection
from dlrm_jax.serving.log import Log, Seldom
from dlrm_jax.serving.program import Program
from dlrm_jax.serving.waiting import Limits
from tests import commands
from tests.serving import served
from tests.serving.gates import gate_of
from tests.serving.test_command import MODULE, events, started
from tests.serving.test_protocol import INFER, check_alive, good, post, until
from tests.serving.test_reload import ask, check, replace

LIMITS = Limits(max_batch=8, max_delay=0.0, max_queue_rows=64)


@pytest.fixture(scope='module')
def small(export):
  with served.serving({'ctr': export}, LIMITS) as running:
    yield running


def get(server, path):
  """Status and body of the answer to a GET."""
  asking = http.client.HTTPConnection(server.http, timeout=60)
  asking.request('GET', path)
  response = asking.getresponse()
  found = response.status, response.read().decode()
  asking.close()
  return found


def faulty(server):
  """Lets the program of a model fail in XLA; returns the switch."""
  program = server.service.repository.find('ctr').program
  switch, score = threading.Event(), program._score

  def pass_on(scores):
    if switch.is_set():
      raise OSError('the device is lost')
    return np.asarray(scores)

  @jax.jit
  def with_fault(inputs):
    scores = score(inputs)
    return jax.pure_callback(pass_on, scores, scores)

  program._score = with_fault
  for size in program.sizes:
    program.compile(size)
  return switch


def test_a_device_that_fails_under_load_and_works_again(export, inputs, want):
  """Refused with the reason, not ready; then ready again without a request."""
  end, failures, lock = threading.Event(), [], threading.Lock()

  def work(worker):
    done = 0
    with over_grpc.InferenceServerClient(server.grpc) as own:
      while not end.is_set():
        start = (7 * worker + done) % 60
        try:
          _, found = ask(own, inputs, start, start + 1 + done % 3)
        except InferenceServerException as error:
          with lock:
            failures.append(error)
        else:
          check(found, want[start : start + 1 + done % 3])
          done += 1
    return done

  with (
    served.serving({'ctr': export}, LIMITS) as server,
    over_grpc.InferenceServerClient(server.grpc) as client,
    over_http.InferenceServerClient(server.http) as other,
    concurrent.futures.ThreadPoolExecutor(4) as pool,
  ):
    logging.getLogger('jax._src.callback').disabled = True  # is told twice
    switch = faulty(server)
    asking = [pool.submit(work, worker) for worker in range(4)]
    try:
      until(lambda: server.service.repository.find('ctr').statistics.rows > 50)
      assert not failures
      switch.set()
      until(lambda: len(failures) > 20 and not client.is_server_ready())
      for one in (client, other):
        assert one.is_server_live()
        assert not one.is_server_ready()
        assert not one.is_model_ready('ctr')
      (index,) = other.get_model_repository_index()
      assert index['state'] == 'UNAVAILABLE'
      assert index['reason'].startswith('the device fails: ')
      assert 'INTERNAL: CpuCallback error' in index['reason']
      status, text = get(server, '/metrics')
      assert status == 200
      assert 'dlrm_ready 0.0' in text
      status, _, answer = post(server, json.dumps(good()))
      assert status == 503
      assert 'INTERNAL: CpuCallback error' in json.loads(answer)['error']
      end.set()
      before = [future.result(60) for future in asking]
      switch.clear()
      until(lambda: client.is_server_ready() and other.is_model_ready('ctr'))
      (index,) = other.get_model_repository_index()
      assert (index['state'], index['reason']) == ('READY', '')
      end.clear()
      asking = [pool.submit(work, worker) for worker in range(4)]
      seen = len(failures)
      rows = server.service.repository.find('ctr').statistics.rows
      until(
        lambda: (
          server.service.repository.find('ctr').statistics.rows > rows + 50
        )
      )
    finally:
      end.set()
    assert min(before) > 0
    assert min(future.result(60) for future in asking) > 0
    assert len(failures) == seen
  assert any('INTERNAL' in error.status() for error in failures)
  for error in failures:
    failed = 'INTERNAL' in error.status()
    assert failed or 'UNAVAILABLE' in error.status()
    assert f'the device {"failed" if failed else "fails"}: ' in str(error)
    assert '\n' not in error.message()
  found = [json.loads(x)['event'] for x in server.log.getvalue().splitlines()]
  assert 'a batch failed' in found
  assert 'defect' not in found


def test_scores_that_are_not_finite_are_refused(small, inputs):
  """Numbers so large that the network overflows; JSON has no word for NaN."""
  program = small.service.repository.find('ctr').program
  score, loaded = program._score, program.loaded
  layers = jax.tree.map(lambda x: x * 1e3, loaded.layers)
  other = Program(loaded._replace(layers=layers), 8, weighted=False)
  program._score = other._score
  huge = np.full((3, 2), [[1.0], [3e38], [1.0]], np.float32)
  part = inputs._replace(dense=huge, ids=inputs.ids[:3])
  with over_grpc.InferenceServerClient(small.grpc) as client:
    with pytest.raises(InferenceServerException, match=r'row 1: .*not finite'):
      ask(client, part, 0, 3)
    ask(client, part, 0, 1)
  program._score = score


def test_a_model_whose_programs_do_not_compile(export, inputs, want, tmp_path):
  """Of two models that are loaded anew, the other one is served."""
  folders = {
    name: shutil.copytree(export, tmp_path / name) for name in ('ctr', 'etc')
  }

  def compile(self, size):
    folder = tmp_path / 'ctr' / 'fails'
    if folder.exists() and size == 8:
      folder.rmdir()
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: no memory\nand so')
    whole(self, size)

  whole = Program.compile
  with (
    pytest.MonkeyPatch.context() as patch,
    served.serving(folders, LIMITS) as server,
    over_grpc.InferenceServerClient(server.grpc) as client,
  ):
    patch.setattr(Program, 'compile', compile)

    def fails():
      for name, folder in folders.items():
        replace(folder, export)
        assert client.is_model_ready(name)
      (tmp_path / 'ctr' / 'fails').mkdir()

    words = 'model ctr is not loaded: JaxRuntimeError: RESOURCE_EXHAUSTED'
    fails()
    with pytest.raises(InferenceServerException, match=words) as caught:
      client.load_model('ctr')
    assert 'INTERNAL' in caught.value.status()
    fails()
    path = '/v2/repository/models/ctr/load'
    status, _, answer = post(server, b'', path)
    assert status == 500
    assert words in json.loads(answer)['error']
    fails()
    server.do(server.service.repository.reload_all())  # as SIGHUP does
    index = client.get_model_repository_index(as_json=True)['models']
    assert [(x['version'], x['state']) for x in index] == [
      ('1', 'READY'), ('2', 'READY')
    ]  # fmt: skip
    assert index[0]['reason'].endswith('RESOURCE_EXHAUSTED: no memory')
    version, found = ask(client, inputs, 0, 5)
    assert version == '1'
    check(found, want[:5])


def test_a_model_that_is_half_there(export, inputs, want, tmp_path):
  """Any file of it may be missing, empty, or cut."""
  folder = shutil.copytree(export, tmp_path / 'model')
  names = [
    path.relative_to(export) for path in export.rglob('*') if path.is_file()
  ]
  assert len(names) > 5
  with (
    served.serving({'ctr': folder}, LIMITS) as server,
    over_grpc.InferenceServerClient(server.grpc) as client,
  ):

    def breaks(name, damage):
      new = shutil.copytree(export, tmp_path / 'new')
      damage(new / name)
      folder.rename(tmp_path / 'old')
      new.rename(folder)
      shutil.rmtree(tmp_path / 'old')
      with pytest.raises(InferenceServerException) as caught:
        client.load_model('ctr')
      assert 'INVALID_ARGUMENT' in caught.value.status(), (name, caught.value)
      assert str(folder) in str(caught.value)
      assert '\n' not in caught.value.message()
      assert client.is_server_ready()

    for name in names:
      for damage in (
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b''),
        lambda path: os.truncate(path, path.stat().st_size // 2),
      ):
        breaks(name, damage)
    version, found = ask(client, inputs, 0, 5)
    assert version == '1'
    check(found, want[:5])
  assert '"defect"' not in server.log.getvalue()


def contents(folder):
  return {
    path: (path.read_bytes(), path.stat().st_mtime_ns)
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_reloads(
  export, inputs, want, tmp_path
):
  """It writes into no model; the next server starts with the new version."""
  folder = tmp_path / 'models'
  shutil.copytree(export, folder / '1')
  model = f'--model=ctr={folder}'
  with commands.Command([*MODULE, model]) as command:
    started(command)
    shutil.copytree(export, tmp_path / '2')
    (tmp_path / '2').rename(folder / '2')
    before = contents(folder)
    seen = len(command.stderr.read_text())
    command.send(signal.SIGHUP)
    commands.wait_until(
      lambda: '"compiled"' in command.stderr.read_text()[seen:], command
    )
    command.kill()
    found = events(command.stderr.read_text())
  assert contents(folder) == before
  assert [x['version'] for x in found if x['event'] == 'serving'] == ['1']
  with commands.Command([*MODULE, model]) as command:
    address = f'127.0.0.1:{started(command)[1]}'
    with over_grpc.InferenceServerClient(address) as client:
      version, found = ask(client, inputs, 0, 5)
    assert version == '2'
    check(found, want[:5])


def test_calls_that_are_cancelled_while_they_wait(small, inputs):
  """What nobody waits for is not computed, and nothing of it is kept."""
  engine = small.service.repository.find('ctr').engine
  program = engine._program
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
  engine._program = program


def test_a_client_of_http_that_goes_while_it_waits(small):
  engine = small.service.repository.find('ctr').engine
  program = engine._program
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
  engine._program = program


def test_a_defect_of_the_server(small, monkeypatch):
  """It is no failure of the device; the log says where, without values."""
  version = small.service.repository.find('ctr')
  errors, seen = version.statistics.errors, len(small.log.getvalue())

  def defective(self, requests, *others):
    raise ValueError(requests[0]['user'].data[0].decode())

  row = {'user': '12345678'}
  path = '/page/explain/ctr'
  monkeypatch.setattr(Coding, '__call__', defective)
  monkeypatch.setattr(Coding, 'remembers', defective)
  status, _, answer = post(small, json.dumps({'row': row}), path)
  monkeypatch.undo()
  assert status == 500
  assert json.loads(answer)['error'] == 'the server failed: ValueError'
  assert version.statistics.errors == errors
  assert get(small, '/v2/health/ready')[0] == 200
  logged = small.log.getvalue()[seen:]
  assert '12345678' not in logged
  (defect,) = [x for x in events(logged) if x['event'] == 'defect']
  assert 'in defective' in defect['traceback']
  assert 'ValueError' in defect['traceback']


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
  small.service.repository.find('ctr').engine._program = gate._program


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
  small.service.repository.find('ctr').engine._program = gate._program


@pytest.fixture
def two_at_a_time(export, monkeypatch):
  """A server that reads two messages of gRPC at a time."""
  monkeypatch.setattr(grpc_methods, 'TOGETHER', 2)
  monkeypatch.setattr(grpc_service, 'TOGETHER', 2)
  with served.serving({'ctr': export}, LIMITS) as running:
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


def refused(text):
  """Number of refused requests by status, and of lines, in a log."""
  found, lines = {}, 0
  for line in map(json.loads, text.splitlines()):
    if line['event'] == 'refused':
      lines += 1
      status = line['status']
      found[status] = found.get(status, 0) + line['requests']
  return found, lines


def test_the_log_counts_all_refusals_by_status(export, monkeypatch):
  with served.serving({'ctr': export}, LIMITS) as server:
    for _ in range(3):
      assert post(server, b'{}')[0] == 400
      assert post(server, b'{}', '/v2/models/no/infer')[0] == 404
    monkeypatch.setattr(log, '_QUIET', 0.1)
    assert post(server, json.dumps(good()), Content_Encoding='br')[0] == 501
    assert post(server, json.dumps(good()), Content_Encoding='br')[0] == 501
    # once nothing more comes
    until(lambda: refused(server.log.getvalue())[0]['UNIMPLEMENTED'] == 2)
    text = server.log
  found, lines = refused(text.getvalue())
  assert found == {'INVALID_ARGUMENT': 3, 'NOT_FOUND': 3, 'UNIMPLEMENTED': 2}
  assert lines < 8


class Gone:
  """A stream whose reader has gone."""

  def write(self, text):
    raise BrokenPipeError

  def flush(self):
    raise BrokenPipeError


def test_a_log_that_nobody_reads(small, inputs, monkeypatch):
  monkeypatch.setattr(small.service, 'seldom', Seldom(Log(Gone())))
  assert post(small, b'{}')[0] == 400
  gate = gate_of(small, 'ctr', fails=lambda inputs: True)
  gate.open.set()
  assert post(small, json.dumps(good()))[0] == 500
  engine = small.service.repository.find('ctr').engine
  engine._program = gate._program
  until(lambda: not engine.failure)
  check_alive(small)
