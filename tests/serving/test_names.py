"""Names under which a server is asked, and pages of others."""

import json

import pytest
from starlette.requests import Request

from dlrm_jax.serving.http.service import HttpService
from dlrm_jax.serving.log import Log
from dlrm_jax.serving.refusal import Why
from dlrm_jax.serving.security import Security
from tests.serving.calls import INFER, good, post
from tests.serving.gates import refusal


def test_a_page_of_another_server_is_refused(server):
  body = json.dumps(good())
  for origin, status in (
    ('http://elsewhere.example', 403),
    ('null', 403),
    (f'http://{server.http}', 200),
  ):
    found, _, answer = post(server, body, Origin=origin)
    assert found == status, answer


HOSTS = {'127.0.0.1:80': 200, '[::1]:80': 200, 'localhost': 200,
         'elsewhere.example': 403, 'localhost.example:80': 403,
         '[::1': 403}  # fmt: skip


@pytest.mark.parametrize('host', HOSTS)
def test_names_that_lead_here(server, host):
  """A page that was read under such a name may not unload models."""
  for path in (INFER, '/v2/repository/index'):
    found, _, answer = post(server, json.dumps(good()), path, Host=host)
    assert found == HOSTS[host], answer
    origin = f'http://{host}'
    options = {'Host': host, 'Origin': origin}
    found, _, answer = post(server, json.dumps(good()), path, **options)
    assert found == HOSTS[host], answer


@pytest.mark.parametrize(
  ('host', 'token', 'of_a_program', 'of_a_page'),
  [
    ('127.0.0.1', '', False, False),
    ('0.0.0.0', '', True, False),  # programs know it by any name
    ('ctr.example', '', True, True),
    ('0.0.0.0', 'secret', True, True),
    ('127.0.0.1', 'secret', True, True),
  ],
)
def test_names_of_other_servers(server, host, token, of_a_program, of_a_page):
  security = Security(None, token)
  http_service = HttpService(server.service, 1 << 20, security, host, Log())
  headers = [(b'host', b'ctr.example'), (b'authorization', b'Bearer secret')]
  origin = (b'origin', b'http://ctr.example')
  for some, taken in (
    (headers, of_a_program),
    ([*headers, origin], of_a_page),
  ):
    scope = {'type': 'http', 'path': '/v2', 'headers': some}
    if taken:
      http_service._check(Request(scope))
    else:
      assert refusal(http_service._check, Request(scope)).why is Why.FORBIDDEN
