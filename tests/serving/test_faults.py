"""Devices, models and servers that fail."""

import concurrent.futures
import json
import logging
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

from dlrm_jax.serving.coding import Coding
from dlrm_jax.serving.program import Program
from tests import commands
from tests.serving import served
from tests.serving.calls import check_alive, get, good, post, until
from tests.serving.gates import gate_of
from tests.serving.test_command import MODULE, events, started
from tests.serving.test_reload import ask, check, replace


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
    served.serving({'ctr': export}, served.SMALL) as server,
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
    served.serving(folders, served.SMALL) as server,
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
    served.serving({'ctr': folder}, served.SMALL) as server,
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


def test_a_device_that_fails_is_told_and_the_server_stays(small, inputs):
  engine = small.service.repository.find('ctr').engine
  program = engine._program
  gate = gate_of(small, 'ctr', fails=lambda x: True)
  gate.open.set()
  seen = len(small.log.getvalue())
  status, _, body = post(small, json.dumps(good()))
  assert status == 500
  assert 'RuntimeError: the device is lost' in json.loads(body)['error']
  with (
    over_grpc.InferenceServerClient(small.grpc) as client,
    pytest.raises(InferenceServerException, match=r'UNAVAILABLE.*device fails'),
  ):
    ask(client, inputs, 0, 1)
  assert '"event": "a batch failed"' in small.log.getvalue()[seen:]
  engine._program = program
  until(lambda: not engine.failure)  # it is tried each second
  check_alive(small)


def test_a_defect_is_logged_and_the_server_stays(small, monkeypatch):
  def broken(*arguments):
    raise KeyError('a defect')

  seen = len(small.log.getvalue())
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
  logged = events(small.log.getvalue()[seen:])
  traces = [x['traceback'] for x in logged if x['event'] == 'defect']
  assert len(traces) == 2
  for trace in traces:
    assert 'in broken' in trace
    assert trace.endswith('KeyError\n')
    assert 'a defect' not in trace.replace("raise KeyError('a defect')", '')
  monkeypatch.undo()
  check_alive(small)
