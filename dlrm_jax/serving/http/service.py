"""The Open Inference Protocol over HTTP, metrics, and a page for people."""

import functools
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dlrm_jax.prepare.bad_rows import shorten
from dlrm_jax.serving import description
from dlrm_jax.serving.http import infer, metrics, page
from dlrm_jax.serving.http.body import Bodies, packed
from dlrm_jax.serving.http.connection import GIVE_UP
from dlrm_jax.serving.http.explanation import explain
from dlrm_jax.serving.log import Log
from dlrm_jax.serving.parameters import (
  NO_LOG_SETTINGS,
  NO_SHARED_MEMORY,
  NO_TRACES,
  check_load,
)
from dlrm_jax.serving.refusal import RefusedError, Why, invalid
from dlrm_jax.serving.security import Security, is_loopback, is_own_name
from dlrm_jax.serving.service import Service

_TOGETHER = 32  # bodies of full size that are read at a time
_JSON = 'application/json'
_BYTES = 'application/octet-stream'
_OPEN = ('/', '/v2/health/live', '/v2/health/ready')  # need no token

_Answer = Callable[[Request], Awaitable[Response]]


def as_json(content: Any, status: int = 200) -> Response:
  """An answer in JSON."""
  return Response(json.dumps(content), status, media_type=_JSON)


def _refused(error: RefusedError) -> Response:
  response = as_json({'error': str(error)}, error.why.value.http)
  if error.why is Why.FULL:
    response.headers['Retry-After'] = '1'
  if error.why is Why.TOO_LARGE:
    response.headers['Connection'] = 'close'  # the rest is not read
  if error.why is Why.UNAUTHENTICATED:
    response.headers['WWW-Authenticate'] = 'Bearer'
  return response


def _absent(why: str) -> _Answer:
  """What answers a call of the protocol that is refused."""

  async def refuse(request: Request) -> Response:
    raise RefusedError(Why.UNSUPPORTED, why)

  return refuse


async def _no_such_path(request: Request, error: Exception) -> Response:
  assert isinstance(error, HTTPException)
  message = f'{request.method} {request.url.path[:200]}: {error.detail}'
  response = as_json({'error': message}, error.status_code)
  response.headers.update(error.headers or {})
  return response


class HttpService:
  """Answers the requests of the protocol."""

  def __init__(
    self,
    service: Service,
    max_body: int,
    security: Security,
    host: str,
    log: Log,
  ) -> None:
    self._service, self._security, self._log = service, security, log
    self._host = host
    self._page = page.read_page()
    self._bodies = Bodies(max_body, _TOGETHER * max_body)

  def app(self) -> Starlette:
    """The application."""
    models, one = '/v2/models', '/v2/models/{model}'
    version = f'{one}/versions/{{version}}'
    both = (one, version)
    routes = [  # the first that fits is taken
      *(('POST', f'{path}/infer', self.infer) for path in both),
      ('GET', '/', self.page),
      ('GET', '/page/models', self.models),
      ('POST', '/page/explain/{model}', self.explain),
      ('GET', '/metrics', self.metrics),
      ('GET', '/v2', self.server),
      ('GET', '/v2/health/live', self.live),
      ('GET', '/v2/health/ready', self.ready),
      ('GET', f'{models}/stats', self.statistics),
      *(('GET', path, self.metadata) for path in both),
      *(('GET', f'{path}/ready', self.model_ready) for path in both),
      *(('GET', f'{path}/config', self.config) for path in both),
      *(('GET', f'{path}/stats', self.statistics) for path in both),
      ('POST', '/v2/repository/index', self.index),
      ('POST', '/v2/repository/models/{model}/load', self.load),
      ('POST', '/v2/repository/models/{model}/unload', self.unload),
    ]
    absent = {
      '/v2/systemsharedmemory/{rest:path}': NO_SHARED_MEMORY,
      '/v2/cudasharedmemory/{rest:path}': NO_SHARED_MEMORY,
      '/v2/trace/setting': NO_TRACES,
      f'{one}/trace/setting': NO_TRACES,
      '/v2/logging': NO_LOG_SETTINGS,
    }
    routes += [
      (method, path, _absent(why))
      for path, why in absent.items()
      for method in ('GET', 'POST')
    ]
    app = Starlette(
      routes=[
        Route(path, self._answering(answer), methods=[method])
        for method, path, answer in routes
      ],
      exception_handlers={HTTPException: _no_such_path},
    )
    app.router.redirect_slashes = False
    return app

  def _answering(self, answer: _Answer) -> _Answer:
    """The same function, whose errors are answers, too."""

    async def answering(request: Request) -> Response:
      start = time.perf_counter()
      self._service.open += 1
      try:
        self._check(request)
        return await answer(request)
      except RefusedError as error:
        if not error.counted:
          self._service.refuse(error, time.perf_counter() - start, None)
        return _refused(error)
      except Exception as error:
        return _refused(self._log.defect(error))
      finally:
        self._service.closed()

    return answering

  async def page(self, request: Request) -> Response:
    """The page for people."""
    html, policy = self._page
    headers = {
      'Content-Security-Policy': policy,
      'Referrer-Policy': 'no-referrer',
      'X-Content-Type-Options': 'nosniff',
    }
    return Response(html, media_type='text/html', headers=headers)

  async def models(self, request: Request) -> Response:
    """Models and their load, for the page."""
    return as_json(page.models_of(self._service.repository))

  async def explain(self, request: Request) -> Response:
    """The score of a row, and what moves it, for the page."""
    row = (await self._json(request)).get('row')
    if not isinstance(row, dict):
      raise invalid('there is no row; expected texts by names of columns')
    model = request.path_params['model']
    return as_json(await explain(self._service, model, row))

  async def metrics(self, request: Request) -> Response:
    """What the server counted, for Prometheus."""
    text = metrics.metrics_of(self._service)
    return Response(text, media_type=metrics.CONTENT_TYPE)

  def _check(self, request: Request) -> None:
    """Raises a `RefusedError` for a request that may not be made."""
    headers = request.headers
    origin = headers.get('origin')
    host = headers.get('host', '')
    if origin and origin.partition('://')[2] != host:
      raise RefusedError(Why.FORBIDDEN, 'asked by a page of another server')
    # A token is what no page has. Other programs may know other names.
    guarded = not self._security.token and (origin or is_loopback(self._host))
    if guarded and host and not is_own_name(host, self._host):
      raise RefusedError(
        Why.FORBIDDEN,
        f'asked for the host {shorten(host)}; expected an address, localhost '
        'or that of --host, as there is no token',
      )
    given = headers.get('authorization', '')
    if request.url.path not in _OPEN and not self._security.admits(given):
      raise RefusedError(Why.UNAUTHENTICATED, 'no token, or a wrong one')

  async def live(self, request: Request) -> Response:
    """Whether the server answers."""
    return Response()

  async def ready(self, request: Request) -> Response:
    """Whether every model is served."""
    return Response(status_code=200 if self._service.ready else 503)

  async def model_ready(self, request: Request) -> Response:
    """Whether a model is served."""
    try:
      ready = self._service.model_ready(*_model(request))
    except RefusedError as error:
      return Response(status_code=error.why.value.http)
    return Response(status_code=200 if ready else 503)

  async def server(self, request: Request) -> Response:
    """Name, version and extensions of the server."""
    return as_json(description.server_metadata())

  async def metadata(self, request: Request) -> Response:
    """Inputs and outputs of a model."""
    repository = self._service.repository
    found = description.model_metadata(repository, *_model(request))
    version = repository.find(*_model(request))
    return as_json(found | {'parameters': version.interface.parameters()})

  async def config(self, request: Request) -> Response:
    """The configuration of a model."""
    version = self._service.repository.find(*_model(request))
    return as_json(description.model_config(version))

  async def statistics(self, request: Request) -> Response:
    """What one model, or all, counted."""
    repository = self._service.repository
    return as_json(description.statistics(repository, *_model(request)))

  async def infer(self, request: Request) -> Response:
    """Scores rows."""
    self._service.check_room()
    body = await self._bodies.read(request)
    headers = request.headers
    asked = infer.read_request(body, headers.get(infer.LENGTH))
    scope = request.scope
    try:
      version, answer = await self._service.infer(
        *(*_model(request), asked.tensors, asked.seconds, len(body)),
        in_turns=True,
        watch=functools.partial(scope.__setitem__, GIVE_UP),
      )
    finally:
      scope.pop(GIVE_UP, None)  # it holds the request
    written = infer.write_answer(
      asked, version.model, version.number, answer.scores
    )
    content, encoding = packed(
      written.content, headers.get('accept-encoding', '')
    )
    response = Response(content, media_type=_JSON)
    if encoding:
      response.headers['Content-Encoding'] = encoding
    if written.length is not None:
      response.headers['Content-Type'] = _BYTES
      response.headers['Inference-Header-Content-Length'] = str(written.length)
    return response

  async def _json(self, request: Request) -> dict[str, Any]:
    return infer.read_json(await self._bodies.read(request))

  async def index(self, request: Request) -> Response:
    """All models."""
    asked = await self._json(request)
    only_ready = infer.field(asked, 'ready', bool)
    repository = self._service.repository
    return as_json(description.index(repository, only_ready=only_ready))

  async def load(self, request: Request) -> Response:
    """Serves what is in a model's folder now."""
    check_load(infer.field(await self._json(request), 'parameters', dict))
    await self._service.load(request.path_params['model'])
    return Response()  # tritonclient's coroutines leave a body unread

  async def unload(self, request: Request) -> Response:
    """Serves a model no more."""
    await self._json(request)
    await self._service.repository.unload(request.path_params['model'])
    return Response()  # tritonclient's coroutines leave a body unread


def _model(request: Request) -> tuple[str, str]:
  """Name and number of version in the path; '' where there is none."""
  found = request.path_params
  return found.get('model', ''), found.get('version', '')
