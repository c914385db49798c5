"""Versions, and models that are loaded again while requests come."""

import concurrent.futures
import http.client
import json
import shutil
import socket
import threading

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

from dlrm_jax.errors import InputError
from dlrm_jax.scoring.load import load
from dlrm_jax.serving.version import mark_of, versions_in
from dlrm_jax.serving.waiting import Limits
from tests import scored
from tests.serving import served
from tests.serving.calls import until

LIMITS = Limits(max_batch=8, max_delay=0.0, max_queue_rows=512)


@pytest.fixture(scope='module')
def other(tmp_path_factory):
  """A run of the same log with another model."""
  return scored.of_log(tmp_path_factory.mktemp('other'), scored.RAW, 'fm')


@pytest.fixture(scope='module')
def exports(export, other, tmp_path_factory):
  """Exports of two models."""
  folder = tmp_path_factory.mktemp('of_other') / 'export'
  return export, scored.exported(other, folder)


@pytest.fixture(scope='module')
def wants(plain, other, inputs):
  """What each model says of the inputs."""
  found = [run.probabilities(inputs) for run in (plain, other)]
  assert np.abs(found[0] - found[1]).min() > 1e-5
  return found


def ask(client, inputs, start, stop, version=''):
  part = type(inputs)(*(None if x is None else x[start:stop] for x in inputs))
  tensors = served.network_tensors(over_grpc, part)
  result = client.infer('ctr', tensors, model_version=version)
  return result.get_response().model_version, result.as_numpy('probability')


def check(found, want):
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


def test_versions_of_a_folder(exports, inputs, wants, tmp_path):
  for number, export in ((9, exports[0]), (10, exports[1])):
    shutil.copytree(export, tmp_path / str(number))
  (tmp_path / 'notes').mkdir()
  (tmp_path / '11').touch()
  assert list(versions_in(tmp_path)) == [9, 10]
  with (
    served.serving({'ctr': tmp_path}, LIMITS) as server,
    over_grpc.InferenceServerClient(server.grpc) as client,
  ):
    about = client.get_model_metadata('ctr', as_json=True)
    assert about['versions'] == ['9', '10']
    for asked, answered, want in (
      ('9', '9', wants[0]),
      ('10', '10', wants[1]),
      ('', '10', wants[1]),
    ):
      version, found = ask(client, inputs, 0, 5, asked)
      assert version == answered
      check(found, want[:5])
    with pytest.raises(
      InferenceServerException, match=r"no version '3'; .*9, 1"
    ):
      ask(client, inputs, 0, 5, '3')
    kept = server.service.repository.find('ctr', '9')
    shutil.rmtree(tmp_path / '10')
    shutil.copytree(exports[1], tmp_path / '12')
    client.load_model('ctr')
    assert server.service.repository.find('ctr', '9') is kept
    found = [x.number for x in server.service.repository.served('ctr')]
    assert found == ['9', '12']
    stats = client.get_inference_statistics('ctr', as_json=True)['model_stats']
    assert [x['version'] for x in stats] == ['9', '12']
    index = client.get_model_repository_index(as_json=True)['models']
    assert [(x['version'], x['state']) for x in index] == [
      ('9', 'READY'), ('12', 'READY')
    ]  # fmt: skip


def replace(folder, export):
  """Puts another export into the place of one, at once."""
  new = folder.with_name('new')
  shutil.copytree(export, new)
  folder.rename(folder.with_name('old'))
  new.rename(folder)
  shutil.rmtree(folder.with_name('old'))


def test_nothing_fails_while_a_model_is_replaced(
  exports, inputs, wants, plain, other, tmp_path
):
  """Each answer is that of the version it names; raw values are coded by it."""
  folder = shutil.copytree(exports[0], tmp_path / 'model')
  rows = scored.columns_of(
    [r for r in scored.rows_of(3) if r['user'] != '' and r['price'] != ''],
    load(plain.folder).intake.schema,
  )
  raw_wants = [
    load(run.folder).predict(rows)[:, None] for run in (plain, other)
  ]
  seen, end = set(), threading.Event()

  def work(number):
    done = 0
    with over_grpc.InferenceServerClient(server.grpc) as client:
      while not end.is_set():
        start = (7 * number + done) % 60
        version, found = ask(client, inputs, start, start + 1 + done % 3)
        want = wants[(int(version) - 1) % 2]
        check(found, want[start : start + 1 + done % 3])
        part = {name: x[start : start + 1] for name, x in rows.items()}
        tensors = served.column_tensors(over_grpc, part, interface)
        result = client.infer('ctr', tensors)
        version = result.get_response().model_version
        want = raw_wants[(int(version) - 1) % 2]
        check(result.as_numpy('probability'), want[start : start + 1])
        seen.add(version)
        done += 1
    return done

  with (
    served.serving({'ctr': folder}, LIMITS) as server,
    over_http.InferenceServerClient(server.http) as client,
    concurrent.futures.ThreadPoolExecutor(4) as pool,
  ):
    interface = server.service.repository.find('ctr').interface
    asking = [pool.submit(work, number) for number in range(4)]
    try:
      for next_one in (1, 0, 1):
        known = len(seen)
        until(lambda k=known: len(seen) > k or any(x.done() for x in asking))
        replace(folder, exports[next_one])
        client.load_model('ctr')
      until(lambda: '4' in seen or any(x.done() for x in asking))
    finally:
      end.set()
    assert all(future.result(60) > 3 for future in asking)
    assert seen == {'1', '2', '3', '4'}
    stats = client.get_inference_statistics('ctr')['model_stats']
    assert [x['version'] for x in stats] == ['4']
    assert stats[0]['inference_stats']['fail']['count'] == 0


def test_the_old_version_has_its_own_vocabularies(exports, plain, tmp_path):
  """Even where other files are in their place already."""
  folder = shutil.copytree(exports[0], tmp_path / 'model')
  model = load(plain.folder)
  rows = scored.columns_of(
    [r for r in scored.rows_of(3) if r['user'] != '' and r['price'] != ''][:8],
    model.intake.schema,
  )
  with (
    served.serving({'ctr': folder}, LIMITS) as server,
    over_grpc.InferenceServerClient(server.grpc) as client,
  ):
    interface = server.service.repository.find('ctr').interface
    shutil.rmtree(folder)
    tensors = served.column_tensors(over_grpc, rows, interface)
    found = client.infer('ctr', tensors).as_numpy('probability')
    check(found, model.predict(rows)[:, None])


def test_what_has_not_changed_is_not_loaded_again(exports, tmp_path):
  folder = shutil.copytree(exports[0], tmp_path / 'model')
  with served.serving({'ctr': folder}, LIMITS) as server:
    before = server.service.repository.find('ctr')
    server.do(server.service.load('ctr'))
    assert server.service.repository.find('ctr') is before


def test_a_model_that_does_not_load_leaves_the_old_one(
  exports, inputs, wants, tmp_path
):
  folder = shutil.copytree(exports[0], tmp_path / 'model')
  with (
    served.serving({'ctr': folder}, LIMITS) as server,
    over_grpc.InferenceServerClient(server.grpc) as client,
  ):
    replace(folder, exports[1])
    table = next((folder / 'tables').iterdir())
    table.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(InferenceServerException) as caught:
      client.load_model('ctr')
    assert 'INVALID_ARGUMENT' in caught.value.status()
    assert f'{table.name}: damaged' in str(caught.value)
    version, found = ask(client, inputs, 0, 5)
    assert version == '1'
    check(found, wants[0][:5])
    (index,) = client.get_model_repository_index(as_json=True)['models']
    assert index['state'] == 'READY'
    assert 'damaged' in index['reason']
    server.do(server.service.repository.reload_all())  # as SIGHUP does
    shutil.rmtree(folder)
    with pytest.raises(InferenceServerException, match=r'model: .*No such'):
      client.load_model('ctr')
    assert ask(client, inputs, 0, 5)[0] == '1'
    shutil.copytree(exports[1], folder)
    client.load_model('ctr')
    version, found = ask(client, inputs, 0, 5)
    assert version == '2'
    check(found, wants[1][:5])
    (index,) = client.get_model_repository_index(as_json=True)['models']
    assert 'reason' not in index
  events = [json.loads(x)['event'] for x in server.log.getvalue().splitlines()]
  assert events.count('load failed') == 3


def test_a_model_that_was_unloaded_stays_so(exports, inputs, tmp_path):
  """Until it is loaded; the server is as ready without it."""
  folder = shutil.copytree(exports[0], tmp_path / 'model')
  with (
    served.serving({'ctr': folder, 'etc': exports[1]}, LIMITS) as server,
    over_grpc.InferenceServerClient(server.grpc) as client,
  ):
    client.unload_model('ctr')
    assert client.is_server_ready()
    server.do(server.service.repository.reload_all())  # as SIGHUP does
    assert not client.is_model_ready('ctr')
    assert client.is_model_ready('etc')
    shutil.rmtree(folder)
    with pytest.raises(InferenceServerException, match='No such'):
      client.load_model('ctr')
    assert client.is_server_ready()
    shutil.copytree(exports[0], folder)
    client.load_model('ctr')
    assert ask(client, inputs, 0, 5)[0] == '2'
    server.do(server.service.repository.reload_all())
    assert client.is_model_ready('ctr')


def test_a_reload_whose_client_is_killed(exports, inputs, wants, tmp_path):
  folder = shutil.copytree(exports[0], tmp_path / 'model')
  with (
    served.serving({'ctr': folder}, LIMITS) as server,
    over_grpc.InferenceServerClient(server.grpc) as client,
  ):
    replace(folder, exports[1])
    host, port = server.http.split(':')
    with socket.create_connection((host, int(port)), 60) as connection:
      path = '/v2/repository/models/ctr/load'
      connection.sendall(
        f'POST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n'.encode()
      )
    until(lambda: ask(client, inputs, 0, 5)[0] == '2')
    check(ask(client, inputs, 0, 5)[1], wants[1][:5])
    # A call of gRPC that is cancelled takes its load along.
    replace(folder, exports[0])
    load_call = client._client_stub.RepositoryModelLoad.future(
      over_grpc.service_pb2.RepositoryModelLoadRequest(model_name='ctr')
    )
    until(lambda: server.service.repository.opening)
    load_call.cancel()
    until(lambda: not server.service.repository.opening)
    assert ask(client, inputs, 0, 5)[0] == '2'
    client.load_model('ctr')
    version, found = ask(client, inputs, 0, 5)
    assert version == '3'
    check(found, wants[0][:5])


def test_two_loads_at_once(exports, tmp_path):
  folder = shutil.copytree(exports[0], tmp_path / 'model')
  with (
    served.serving({'ctr': folder}, LIMITS) as server,
    concurrent.futures.ThreadPoolExecutor(4) as pool,
  ):
    replace(folder, exports[1])

    def load_it(number):
      connection = http.client.HTTPConnection(server.http, timeout=60)
      connection.request('POST', '/v2/repository/models/ctr/load')
      status = connection.getresponse().status
      connection.close()
      return status

    assert list(pool.map(load_it, range(4))) == [200] * 4
    found = [x.number for x in server.service.repository.served('ctr')]
    assert found == ['2']  # the second one found nothing new


def test_a_workdir_with_a_new_checkpoint(tmp_path):
  run = scored.of_log(tmp_path / 'run', scored.PAIRS)
  before = mark_of(run.folder)
  (run.folder / 'checkpoints' / '9').mkdir()
  assert mark_of(run.folder) != before


def test_a_folder_that_is_not_there(tmp_path):
  with pytest.raises(InputError, match='cannot be read: No such file'):
    versions_in(tmp_path / 'nothing')
  with (
    pytest.raises(InputError, match='neither a workdir'),
    served.serving({'ctr': tmp_path}),
  ):
    pass
