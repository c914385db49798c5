"""The flags of the command."""

import argparse
import importlib.util
import re
import ssl
from collections.abc import Sequence
from pathlib import Path

from dlrm_jax.config.fields import read_size
from dlrm_jax.config.parser import Parser
from dlrm_jax.errors import InputError
from dlrm_jax.serving.waiting import Limits

NEEDED = (
  *('grpc', 'httptools', 'prometheus_client', 'starlette'),
  *('tritonclient', 'uvicorn'),
)
"""Packages of the extra `serve`."""

_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,63}')
_PORTS = 1 << 16


def parser_of(description: str | None) -> argparse.ArgumentParser:
  """The parser of the command."""
  parser = Parser(prog='python -m dlrm_jax.serve', description=description)
  add = parser.add_argument
  add(
    '--model',
    action='append',
    required=True,
    metavar='NAME=DIR',
    help='a name, and an export, a workdir, or a folder of versions 1, 2, ... '
    'of them; may be given several times',
  )
  add(
    '--host',
    default='127.0.0.1',
    metavar='ADDRESS',
    help='address to listen at; 0.0.0.0: all of this machine (default: '
    '127.0.0.1, which only this machine reaches)',
  )
  _port(parser, 'http', 8000)
  _port(parser, 'grpc', 8001)
  add(
    '--max_batch',
    type=int,
    default=1024,
    metavar='ROWS',
    help='most rows of a request, and of requests that are joined (default: '
    '1024)',
  )
  add(
    '--max_delay_ms',
    type=float,
    default=0.0,
    metavar='MS',
    help='how long a request may wait for others to join it (default: 0; only '
    'those are joined that come while a batch is scored)',
  )
  add(
    '--max_queue_rows',
    type=int,
    default=16_384,
    metavar='ROWS',
    help='most rows of a model that wait; more are refused (default: 16384)',
  )
  add(
    '--max_body',
    default='8MB',
    metavar='SIZE',
    help='most bytes of a request, unpacked (default: 8MB)',
  )
  add('--tls_cert', metavar='FILE', help='certificate in PEM')
  add('--tls_key', metavar='FILE', help='its private key')
  add(
    '--token_file',
    metavar='FILE',
    help='file with a token, which requests must bring (Authorization: Bearer '
    'TOKEN)',
  )
  return parser


def _port(parser: argparse.ArgumentParser, protocol: str, port: int) -> None:
  parser.add_argument(
    f'--{protocol}',
    type=int,
    default=port,
    metavar='PORT',
    help=f'port of {protocol}; 0: any that is free (default: {port})',
  )


def check_installed() -> None:
  """Raises InputError where a package of the extra `serve` is missing."""
  missing = [n for n in NEEDED if importlib.util.find_spec(n) is None]
  if missing:
    raise InputError(
      f"serve needs {', '.join(missing)}: pip install 'dlrm_jax[serve]'"
    )


def models_of(given: Sequence[str]) -> dict[str, Path]:
  """The folders of models by name.

  Raises:
    InputError: a name is none, or there twice.
  """
  found: dict[str, Path] = {}
  for text in given:
    name, equals, folder = text.partition('=')
    if not equals or not folder or not _NAME.fullmatch(name):
      raise InputError(
        f'--model={text}: expected NAME=DIR, where NAME has letters, digits, '
        'and . _ - behind the first'
      )
    if name in found:
      raise InputError(f'--model={text}: there are two models {name}')
    found[name] = Path(folder)
  return found


def check_ports(flags: argparse.Namespace) -> None:
  """Raises InputError for a port that is none, or one for both protocols."""
  for name in ('http', 'grpc'):
    if not 0 <= (port := getattr(flags, name)) < _PORTS:
      raise InputError(f'--{name}={port}: expected a port, 0 ... {_PORTS - 1}')
  if flags.http == flags.grpc and flags.http:
    raise InputError(
      f'--http and --grpc are both {flags.http}; expected two ports'
    )


def limits_of(flags: argparse.Namespace) -> Limits:
  """How much waits, and how much is joined.

  Raises:
    InputError: a limit is out of range.
  """
  if flags.max_batch < 1:
    raise InputError(f'--max_batch={flags.max_batch}: expected 1 or more')
  if not 0 <= flags.max_delay_ms <= 1e4:
    raise InputError(
      f'--max_delay_ms={flags.max_delay_ms:g}: expected 0 ... 10000'
    )
  if flags.max_queue_rows < flags.max_batch:
    raise InputError(
      f'--max_queue_rows={flags.max_queue_rows}: expected at least '
      f'--max_batch={flags.max_batch}, or no large request could wait'
    )
  return Limits(flags.max_batch, flags.max_delay_ms / 1e3, flags.max_queue_rows)


def max_body_of(flags: argparse.Namespace) -> int:
  """Most bytes of a request.

  Raises:
    InputError: it is no size, or too large.
  """
  size = read_size('--max_body', flags.max_body)
  if not 0 < size < 2**31:
    raise InputError(f'--max_body={flags.max_body}: expected less than 2GB')
  return size


def tls_of(flags: argparse.Namespace) -> tuple[Path, Path] | None:
  """Certificate and key.

  Raises:
    InputError: one is missing, or no certificate and its key.
  """
  cert, key = flags.tls_cert, flags.tls_key
  if not cert and not key:
    return None
  if not cert or not key:
    raise InputError('give both of --tls_cert and --tls_key, or none')
  try:
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
  except OSError as error:
    raise InputError(
      f'--tls_cert={cert} --tls_key={key}: {error}; expected a certificate in '
      'PEM and its key'
    ) from None
  return Path(cert), Path(key)
