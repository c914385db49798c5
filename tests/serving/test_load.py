"""Queues and memory that are full; deadlines."""

import concurrent.futures
import json

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

from dlrm_jax.serving.tensors import BYTES
from dlrm_jax.serving.waiting import Limits
from tests.serving import served
from tests.serving.calls import check_alive, good, post, until
from tests.serving.gates import gate_of


@pytest.fixture(scope='module')
def tight(export):
  """A server with little room."""
  limits = Limits(max_batch=16, max_delay=0.0, max_queue_rows=32)
  with served.serving({'ctr': export}, limits) as running:
    yield running


def ask(client, inputs, start, stop, **options):
  module = over_grpc if 'grpc' in type(client).__module__ else over_http
  part = type(inputs)(*(None if x is None else x[start:stop] for x in inputs))
  tensors = served.network_tensors(module, part)
  return client.infer('ctr', tensors, **options).as_numpy('probability')


def test_a_full_queue_and_deadlines(tight, inputs, plain):
  """What does not fit is refused at once; all that waits is answered."""
  want = plain.probabilities(inputs)
  engine = tight.service.repository.find('ctr').engine
  program = engine._program
  gate = gate_of(tight, 'ctr')
  with (
    concurrent.futures.ThreadPoolExecutor(8) as pool,
    over_grpc.InferenceServerClient(tight.grpc) as client,
    over_http.InferenceServerClient(tight.http, concurrency=8) as other,
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
    status, _, body = post(tight, json.dumps(request))
    assert status == 504, body
    assert 'before its answer' in json.loads(body)['error']
    # so that there is room for others
    found.append((pool.submit(ask, client, inputs, 8, 15), 8, 15))
    until(lambda: engine.queue_rows == 31)
    with pytest.raises(InferenceServerException) as caught:
      ask(client, inputs, 0, 2)
    assert 'RESOURCE_EXHAUSTED' in caught.value.status()
    assert '31 rows wait' in str(caught.value)
    status, headers, body = post(tight, json.dumps(good(2)))
    assert (status, headers['Retry-After']) == (429, '1'), body
    gate.open.set()
    for future, start, stop in found:
      np.testing.assert_allclose(
        future.result(60), want[start:stop], rtol=0, atol=1e-6
      )
    refused = tight.service.repository.find('ctr').statistics.refused
    assert refused['DEADLINE_EXCEEDED'] == 3
    np.testing.assert_allclose(
      ask(other, inputs, 3, 9), want[3:9], rtol=0, atol=1e-6
    )
  assert sum(gate.sizes) == 1 + 16 + 16 + 8 + 8
  engine._program = program


def test_what_comes_to_full_queues_is_refused_unread(tight, inputs):
  """So what is in it does not matter."""
  service = tight.service
  engine = service.repository.find('ctr').engine
  program = engine._program
  gate = gate_of(tight, 'ctr')
  with (
    concurrent.futures.ThreadPoolExecutor(3) as pool,
    over_grpc.InferenceServerClient(tight.grpc) as client,
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
    status, headers, body = post(tight, b'no JSON')
    assert (status, headers['Retry-After']) == (429, '1'), body
    assert service.refused['RESOURCE_EXHAUSTED'] == before + 2
    gate.open.set()
    for future in found:
      future.result(60)
  engine._program = program
  check_alive(tight)


def test_requests_that_wait_have_so_many_bytes(tight, inputs):
  service = tight.service
  engine = service.repository.find('ctr').engine
  program, most = engine._program, service._most_held
  assert most == 32 << 20
  gate = gate_of(tight, 'ctr')
  with (
    concurrent.futures.ThreadPoolExecutor(2) as pool,
    over_grpc.InferenceServerClient(tight.grpc) as client,
  ):
    first = pool.submit(ask, client, inputs, 0, 1)
    assert gate.called.wait(60)
    service._most_held = service._held + 100
    status, _, body = post(tight, json.dumps(good(8)))
    assert status == 429
    assert 'bytes wait already' in json.loads(body)['error']
    gate.open.set()
    first.result(60)
  assert service._held == 0
  engine._program, service._most_held = program, most


def test_texts_take_more_than_their_bytes(tight):
  """Of many short ones, which memory they take is counted."""
  service = tight.service
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
  assert post(tight, body)[0] == 200
  most, service._most_held = service._most_held, 10 * len(body)
  status, _, answer = post(tight, body)
  service._most_held = most
  assert status == 429
  assert 'bytes wait already' in json.loads(answer)['error']


def test_more_rows_than_a_batch(tight):
  status, _, body = post(tight, json.dumps(good(17)))
  assert status == 400
  assert (
    'a request of 17 rows; expected at most 16' in json.loads(body)['error']
  )
