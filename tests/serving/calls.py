"""What tests ask of a server, and wait for."""

import http.client
import json
import time

INFER = '/v2/models/ctr/infer'


def post(server, body, path=INFER, **headers):
  """Status, headers and body of the answer to a request."""
  connection = http.client.HTTPConnection(server.http, timeout=60)
  names = {name.replace('_', '-'): value for name, value in headers.items()}
  connection.request('POST', path, body, names)
  response = connection.getresponse()
  found = response.status, response.headers, response.read()
  connection.close()
  return found


def get(server, path):
  """Status and body of the answer to a GET."""
  asking = http.client.HTTPConnection(server.http, timeout=60)
  asking.request('GET', path)
  response = asking.getresponse()
  found = response.status, response.read().decode()
  asking.close()
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


def until(happened):
  end = time.monotonic() + 60
  while not happened():
    assert time.monotonic() < end
    time.sleep(0.002)
