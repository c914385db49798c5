"""Malformed and oversized requests."""

import gzip
import http.client
import json
import zlib

import grpc
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from dlrm_jax.serving.grpc_service import _tensors
from dlrm_jax.serving.http.infer import read_request
from dlrm_jax.serving.refusal import RefusedError
from dlrm_jax.serving.tensors import BYTES, DTYPES, of_bytes, of_json
from tests.serving.calls import INFER, check_alive, good, post

KINDS = [*DTYPES, BYTES]


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
