"""Any request, by either protocol: a right answer, or a refusal that says why.

Requests are good ones in all forms of the protocol, and good ones of which
some bytes are others.
"""

import json
import struct
import tracemalloc

import grpc
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax.scoring.load import load
from dlrm_jax.serving.http.infer import LENGTH
from dlrm_jax.serving.tensors import BYTES, DTYPES, of_json
from tests import scored
from tests.serving.calls import check_alive, post
from tests.serving.gates import refusal

ROWS = 30
SERVICE = '/inference.GRPCInferenceService'
STATUSES = {200, 400, 404, 413, 429, 501, 504}
CODES = {
  grpc.StatusCode.INVALID_ARGUMENT,
  grpc.StatusCode.NOT_FOUND,
  grpc.StatusCode.RESOURCE_EXHAUSTED,
  grpc.StatusCode.UNIMPLEMENTED,
  grpc.StatusCode.DEADLINE_EXCEEDED,
}
FIELDS = {'FP32': 'fp32_contents', 'FP64': 'fp64_contents',
          'INT32': 'int_contents', 'INT64': 'int64_contents',
          BYTES: 'bytes_contents'}  # fmt: skip
service_pb2 = over_grpc.service_pb2


@pytest.fixture(scope='module')
def log(plain):
  """Rows as both sets of inputs have them, and what the model says of each."""
  model = load(plain.folder)
  inputs = scored.blocks_of(plain.data, 'test')
  found = [row for row in scored.rows_of(5) if row['user'] != '']
  for row in found:
    row['price'] = row['price'] or 0
  columns = scored.columns_of(found[:ROWS], model.intake.schema)
  texts = {
    name: [
      '|'.join(map(str, x if isinstance(x, list) else [x]))
      for x in ('' if x is None else x for x in values)
    ]
    for name, values in columns.items()
  }
  network = {
    'dense': (('FP32', 'FP64')[:1], inputs.dense[:ROWS]),
    'ids': (('INT32', 'INT64'), inputs.ids[:ROWS]),
  }
  numbers = {'price': ('FP32', 'FP64'), 'age': ('FP32', 'FP64'),
             'user': ('INT32', 'INT64')}  # fmt: skip
  raw = {
    name: ((*numbers.get(name, ()), BYTES), columns[name], texts[name])
    for name in columns
  }
  return (
    (network, plain.probabilities(inputs)[:ROWS]),
    (raw, model.predict(columns)[:, None]),
  )


@st.composite
def questions(draw, log):
  """Tensors of some rows, (name, type, shape, values), and what is right."""
  given, want = draw(st.sampled_from(log))
  start = draw(st.integers(0, ROWS - 1))
  stop = draw(st.integers(start + 1, ROWS))
  tensors = []
  for name, (kinds, values, *texts) in given.items():
    kind = draw(st.sampled_from(kinds))
    part = (texts[0] if kind == BYTES else values)[start:stop]
    shape = list(np.shape(part))
    if (texts and kind != BYTES) or (texts and name != 'tags'):
      shape += draw(st.sampled_from([[], [1]]))
    flat = np.ravel(np.array(part, object if kind == BYTES else None)).tolist()
    tensors.append((name, kind, shape, flat))
  return draw(st.permutations(tensors)), want[start:stop]


def packed(kind, values):
  """Values as bytes of the protocol."""
  if kind != BYTES:
    return np.array(values, DTYPES[kind]).tobytes()
  texts = [value.encode() for value in values]
  return b''.join(struct.pack('<I', len(text)) + text for text in texts)


@st.composite
def bodies(draw, tensors):
  """A body of HTTP, and the length of its JSON."""
  inputs, tail = [], b''
  for name, kind, shape, values in tensors:
    one = {'name': name, 'datatype': kind, 'shape': shape}
    if draw(st.booleans()):
      part = packed(kind, values)
      one['parameters'] = {'binary_data_size': len(part)}
      tail += part
    elif len(shape) == 2 and draw(st.booleans()):
      rows = np.array(values, object).reshape(shape)
      one['data'] = rows.tolist()
    else:
      one['data'] = values
    inputs.append(one)
  asked: dict[str, object] = {'inputs': inputs}
  if draw(st.booleans()):
    asked['outputs'] = [
      {
        'name': 'probability',
        'parameters': {'binary_data': draw(st.booleans())},
      }
    ]
  if draw(st.booleans()):
    asked['parameters'] = {'binary_data_output': draw(st.booleans())}
  head = json.dumps(asked).encode()
  return head + tail, len(head)


@st.composite
def messages(draw, tensors):
  """A message of gRPC."""
  request = service_pb2.ModelInferRequest(model_name='ctr')
  raw = draw(st.booleans())
  for name, kind, shape, values in tensors:
    one = request.inputs.add(name=name, datatype=kind, shape=shape)
    if raw:
      request.raw_input_contents.append(packed(kind, values))
    else:
      texts = [x.encode() for x in values] if kind == BYTES else values
      getattr(one.contents, FIELDS[kind]).extend(texts)
  return request


@st.composite
def damaged(draw, content):
  """The same bytes, of which some are others, more, or absent."""
  for _ in range(draw(st.integers(1, 3))):
    start = draw(st.integers(0, len(content)))
    stop = min(len(content), start + draw(st.integers(0, 12)))
    new = draw(
      st.binary(max_size=6)
      | st.sampled_from([b'', b'0', b'-', b'9' * 20, b'null', b'[', b'\xff'])
      | st.just(content[start:stop] * 2)
    )
    content = content[:start] + new + content[stop:]
  return content


def probability(status, headers, body):
  """The probabilities of an answer of HTTP, f32[B, T]."""
  assert status == 200, body
  length = headers[LENGTH]
  head = json.loads(body if length is None else body[: int(length)])
  (output,) = (x for x in head['outputs'] if x['name'] == 'probability')
  if 'data' in output:
    values = output['data']
  else:
    assert head['outputs'][0] is output
    size = output['parameters']['binary_data_size']
    values = np.frombuffer(body[int(length) :][:size], '<f4')
  return np.array(values).reshape(output['shape'])


@given(st.data())
def test_all_forms_of_a_request_have_the_same_answer(server, log, data):
  tensors, want = data.draw(questions(log))
  body, length = data.draw(bodies(tensors))
  found = probability(*post(server, body, **{LENGTH: str(length)}))
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)
  message = data.draw(messages(tensors))
  with over_grpc.InferenceServerClient(server.grpc) as client:
    result = over_grpc.InferResult(client._client_stub.ModelInfer(message))
  found = result.as_numpy('probability')
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


@given(st.data())
def test_a_damaged_body_is_answered_or_refused(server, log, data):
  seen = len(server.log.getvalue())
  tensors, _ = data.draw(questions(log))
  body, length = data.draw(bodies(tensors))
  length = data.draw(st.just(length) | st.integers(0, len(body) + 9))
  body = data.draw(damaged(body))
  status, _, answer = post(server, body, **{LENGTH: str(length)})
  assert status in STATUSES, answer
  if status == 200:
    assert b'NaN' not in answer
  else:
    message = json.loads(answer)['error']
    assert '\n' not in message
    assert 5 < len(message) < 1000
  assert '"defect"' not in server.log.getvalue()[seen:]


def outcome(server, content):
  """Status, details and answer of a message of gRPC."""
  with grpc.insecure_channel(server.grpc) as channel:
    call = channel.unary_unary(f'{SERVICE}/ModelInfer').future(
      content, timeout=60
    )
    if call.exception() is None:
      return None, '', service_pb2.ModelInferResponse.FromString(call.result())
    return call.code(), call.details(), None


@given(st.data())
def test_a_damaged_message_is_answered_or_refused(server, log, data):
  seen = len(server.log.getvalue())
  tensors, _ = data.draw(questions(log))
  content = data.draw(messages(tensors)).SerializeToString()
  code, details, answer = outcome(server, data.draw(damaged(content)))
  if answer is None:
    assert code in CODES, details
    assert 5 < len(details) < 1000
  else:
    for raw in answer.raw_output_contents:
      assert np.isfinite(np.frombuffer(raw, '<f4')).all()
  assert '"defect"' not in server.log.getvalue()[seen:]


def test_a_message_that_is_none(server, log):
  """Of one call, and of a stream, whose other requests are answered."""
  code, details, _ = outcome(server, b'\xff' * 100)
  assert code is grpc.StatusCode.INVALID_ARGUMENT
  assert details == 'the message is no ModelInferRequest'
  tensors = [(name, kinds[0], list(x.shape), x.ravel().tolist())
             for name, (kinds, x) in log[0][0].items()]  # fmt: skip
  good = service_pb2.ModelInferRequest(model_name='ctr')
  for name, kind, shape, values in tensors:
    good.inputs.add(name=name, datatype=kind, shape=shape)
    good.raw_input_contents.append(packed(kind, values))
  content = good.SerializeToString()
  with grpc.insecure_channel(server.grpc) as channel:
    stream = channel.stream_stream(f'{SERVICE}/ModelStreamInfer')
    found = [
      service_pb2.ModelStreamInferResponse.FromString(x)
      for x in stream(iter([content, b'\xff' * 9, content]), timeout=60)
    ]
  assert found[1].error_message.endswith(details)
  for one in (found[0], found[2]):
    result = over_grpc.InferResult(one.infer_response)
    np.testing.assert_allclose(
      result.as_numpy('probability'), log[0][1], rtol=0, atol=1e-6
    )
  check_alive(server)


HEAD = {'name': 'dense', 'datatype': 'FP32'}
EXTREMES = {
  'a long length': ('{}', '1' * 5000),
  'a long time': ({'parameters': {'timeout': 10**400}}, None),
  'no elements of a huge shape': (
    {'inputs': [HEAD | {'shape': [0, *[2**31 - 1] * 3], 'data': []}]}, None
  ),
  'a shape of huge numbers': (
    {'inputs': [HEAD | {'shape': [10**400], 'data': []}]}, None
  ),
  'deep numbers': (
    '{"inputs": [{"name": "dense", "datatype": "FP32", "shape": [1], "data": '
    f'{"[" * 90}1{"]" * 90}}}]}}',
    None,
  ),
  'a long text among many numbers': (
    {'inputs': [HEAD | {'shape': [8001], 'data': ['x' * 3000, *[1] * 8000]}]},
    None,
  ),
  'a long text among many texts': (
    {'inputs': [HEAD | {'shape': [8001], 'data': ['x' * 3000, *'a' * 8000]}]},
    None,
  ),
  'a long text deep in many numbers': (
    {'inputs': [
      HEAD | {'shape': [8001, 1], 'data': [['x' * 3000], *[[1]] * 8000]}
    ]},
    None,
  ),
  'lists in lists in a list of numbers': (
    '{"inputs": [{"name": "dense", "datatype": "FP32", "shape": [1], "data": '
    f'[1, {"[" * 5000}1{"]" * 5000}]}}]}}',
    None,
  ),
  'objects in objects in a list of numbers': (
    '{"inputs": [{"name": "dense", "datatype": "FP32", "shape": [1], "data": '
    f'[{"{" + chr(34) + "a" + chr(34) + ":"}'
    + '{"a":' * 5000 + '1' + '}' * 5001 + ']}]}',
    None,
  ),
  'an output many times': ({'outputs': [{'name': 'logit'}] * 1000}, None),
}  # fmt: skip


@pytest.mark.parametrize('name', EXTREMES)
def test_extremes_of_a_body(server, name):
  asked, length = EXTREMES[name]
  headers = {} if length is None else {LENGTH: length}
  body = asked if isinstance(asked, str) else json.dumps(asked)
  status, _, answer = post(server, body, **headers)
  assert status == 400, answer
  assert 5 < len(json.loads(answer)['error']) < 1000


@pytest.mark.parametrize(
  'data', [['x' * 3000, *'a' * 8000], [['x' * 3000], *[['a']] * 8000]]
)
def test_a_long_text_among_many_takes_no_more_memory(data):
  """NumPy would give each of them the room of the longest."""
  tracemalloc.start()
  error = refusal(of_json, 'dense', 'FP32', [8001], data)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert "data has 'xxx" in str(error)
  assert peak < 1e6


def test_extremes_of_a_message(server):
  """Answers are no larger than what a model gives, and errors are short."""
  many = service_pb2.ModelInferRequest(model_name='ctr')
  for _ in range(1000):
    many.outputs.add(name='logit')
  names = service_pb2.ModelInferRequest(model_name='ctr')
  for _ in range(2):
    names.inputs.add(name='x' * 100_000, datatype='FP32', shape=[0])
  both = service_pb2.ModelInferRequest(model_name='ctr')
  one = both.inputs.add(name='dense', datatype='FP32', shape=[1])
  one.contents.fp32_contents.append(1)
  both.raw_input_contents.append(bytes(4))
  with over_grpc.InferenceServerClient(server.grpc) as client:
    for request, words in (
      (many, 'asked for twice'), (names, 'there are two inputs'),
      (both, 'has contents, raw and not'),
    ):  # fmt: skip
      with pytest.raises(grpc.RpcError) as caught:
        client._client_stub.ModelInfer(request)
      assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
      assert words in caught.value.details()
      assert len(caught.value.details()) < 1000


@pytest.mark.parametrize(
  ('path', 'body', 'words'),
  [
    ('/v2/repository/models/ctr/load', {'parameters': 5}, 'expected an object'),
    ('/v2/repository/index', {'ready': 'yes'}, 'expected true or false'),
    ('/page/explain/ctr', {'row': {'word': '\ud800'}}, 'UTF-8'),
    ('/page/explain/ctr', {'row': {'tags': '|' * 20_000}}, 'at most 10,000'),
  ],
)  # fmt: skip
def test_wrong_fields_of_other_calls(server, path, body, words):
  status, _, answer = post(server, json.dumps(body), path)
  assert status == 400, answer
  assert words in json.loads(answer)['error']
