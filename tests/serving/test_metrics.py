"""Metrics, and refusals in the log."""

import http.client
import json

import tritonclient.http as over_http

from dlrm_jax.serving import log
from dlrm_jax.serving.log import Log, Seldom
from dlrm_jax.serving.tensors import BYTES
from tests.serving import served
from tests.serving.calls import check_alive, good, post, until
from tests.serving.gates import gate_of, refusal


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
    three = type(inputs)(*(None if x is None else x[:3] for x in inputs))
    client.infer('ctr', served.network_tensors(over_http, three))
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
  with served.serving({'ctr': export}, served.SMALL) as server:
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
