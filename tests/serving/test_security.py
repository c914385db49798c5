"""Certificates and tokens, of both protocols."""

import json
import subprocess

import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

from dlrm_jax.load_test.__main__ import main as load_test
from dlrm_jax.serving import Client
from dlrm_jax.serving.security import Security, Tls
from tests import scored
from tests.serving import served

HEADERS = {'Authorization': 'Bearer a-secret'}


@pytest.fixture(scope='module')
def tls(tmp_path_factory):
  """A certificate that signs itself."""
  folder = tmp_path_factory.mktemp('tls')
  found = Tls(folder / 'cert.pem', folder / 'key.pem')
  subprocess.run(
    [
      *('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes'),
      *('-keyout', found.key, '-out', found.cert, '-days', '2'),
      *('-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'),
    ],
    check=True,
    capture_output=True,
  )
  return found


@pytest.fixture(scope='module')
def secured(export, tls):
  security = Security(tls, 'a-secret')
  with served.serving({'ctr': export}, security=security) as server:
    yield server


def test_both_protocols_with_certificate_and_token(secured, tls, plain):
  rows = scored.blocks_of(plain.data, 'test')
  inputs = rows._replace(dense=rows.dense[:3], ids=rows.ids[:3])
  want = plain.probabilities(inputs)
  options = {'ssl': True, 'root_certificates': str(tls.cert)}
  with over_grpc.InferenceServerClient(secured.grpc, **options) as client:
    tensors = served.network_tensors(over_grpc, inputs)
    headers = {'authorization': 'Bearer a-secret'}
    found = client.infer('ctr', tensors, headers=headers)
    assert abs(found.as_numpy('probability') - want).max() < 1e-6
    for wrong in (None, {'authorization': 'Bearer a-secre'}):
      assert client.is_server_live(headers=wrong)
      for call in (
        lambda wrong=wrong: client.infer('ctr', tensors, headers=wrong),
        lambda wrong=wrong: client.unload_model('ctr', headers=wrong),
      ):
        with pytest.raises(InferenceServerException, match='UNAUTHENTICATED'):
          call()
  options = {'ssl': True, 'ssl_options': {'ca_certs': str(tls.cert)}}
  with over_http.InferenceServerClient(secured.http, **options) as client:
    tensors = served.network_tensors(over_http, inputs)
    found = client.infer('ctr', tensors, headers=HEADERS)
    assert abs(found.as_numpy('probability') - want).max() < 1e-6
    for wrong in (None, {'Authorization': 'a-secret'}):
      assert client.is_server_ready(headers=wrong)
      for call in (
        lambda wrong=wrong: client.infer('ctr', tensors, headers=wrong),
        lambda wrong=wrong: client.unload_model('ctr', headers=wrong),
        lambda wrong=wrong: client.get_server_metadata(headers=wrong),
      ):
        with pytest.raises(InferenceServerException, match='401'):
          call()
  assert 'secret' not in secured.log.getvalue()


def test_our_client_with_certificate_and_token(secured, tls, plain):
  client = Client(secured.grpc, token='a-secret', tls=str(tls.cert))
  rows = {
    'price': [1.0], 'age': [2.0], 'user': [3], 'site': ['ff'], 'word': ['x'],
    'city': ['city 1'], 'tags': [['tag1']],
  }  # fmt: skip
  assert client.predict(rows).shape == (1,)


def test_a_stream_without_a_token(secured, tls):
  import queue

  results = queue.Queue()
  options = {'ssl': True, 'root_certificates': str(tls.cert)}
  with over_grpc.InferenceServerClient(secured.grpc, **options) as client:
    client.start_stream(lambda result, error: results.put(error))
    assert 'UNAUTHENTICATED' in str(results.get(timeout=60).status())
    client.stop_stream()


def test_a_server_without_certificate_speaks_plainly(secured, tls):
  """A client that speaks plainly does not reach one with a certificate."""
  with (
    over_grpc.InferenceServerClient(secured.grpc) as client,
    pytest.raises(InferenceServerException),
  ):
    client.is_server_live(client_timeout=5)
  events = [json.loads(x) for x in secured.log.getvalue().splitlines()]
  assert not [x for x in events if x['event'] == 'defect']


@pytest.mark.parametrize('protocol', ['grpcs', 'https'])
def test_a_load_on_a_secured_server(secured, tls, protocol, tmp_path, capsys):
  address = {'grpcs': secured.grpc, 'https': secured.http}[protocol]
  token = tmp_path / 'token'
  token.write_text('a-secret\n')
  flags = f'--url={protocol}://{address}', '--model=ctr', '--seconds=0.2'
  trusted, known = f'--tls_cert={tls.cert}', f'--token_file={token}'
  assert load_test([*flags, trusted, known]) == 0
  assert '| concurrency 1 |' in capsys.readouterr().out
  assert load_test([*flags, trusted]) == 1
  assert 'no token, or a wrong one' in capsys.readouterr().err
  assert load_test([*flags, known]) == 1
  said = capsys.readouterr().err
  assert said.startswith(f'error: {protocol}://{address}')
  assert 'certificate' in said.lower()
