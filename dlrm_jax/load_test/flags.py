"""The flags of the command."""

import argparse
import importlib.util
import math
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from dlrm_jax.config.parser import Parser
from dlrm_jax.errors import InputError
from dlrm_jax.queries.sizes import HELP, Sizes, read_sizes
from dlrm_jax.serving.token import read_token

NEEDED = 'aiohttp', 'grpc', 'tritonclient'
"""Packages of the extra `serve`."""

SCENARIOS = 'offline', 'server', 'single_stream'
_SLA_MS = 60.0  # MLPerf's, of DLRM
_SHARE = 0.1  # of the duration of a load, which a target may be at most
_MOST = 10_000  # concurrency


class Wanted(NamedTuple):
  """What to test.

  Attributes:
    url: of the server.
    model: name of the model.
    scenario: one of `SCENARIOS`; '': loads as they are named.
    concurrency: loads of closed loops.
    rates: loads of open loops, requests a second.
    bound: seconds, of scenario `server`.
    sizes: rows of a request.
    seconds: duration of a load.
    data: a file of raw rows; None: rows are made up.
    seed: of all draws.
    retry: whether refused requests are sent again.
    token: what the server asks for; '': nothing.
    tls_cert: file of the certificate to trust; None: those that are known.
  """

  url: str
  model: str
  scenario: str
  concurrency: Sequence[int]
  rates: Sequence[float]
  bound: float
  sizes: Sizes
  seconds: float
  data: str | None
  seed: int
  retry: bool
  token: str
  tls_cert: str | None


def parser_of(description: str | None) -> Parser:
  """The parser of the command."""
  parser = Parser(prog='python -m dlrm_jax.load_test', description=description)
  parser.add_required(
    '--url',
    'URL',
    'grpc://HOST:PORT or http://HOST:PORT, with TLS grpcs or https',
  )
  parser.add_required('--model', 'NAME', 'name of the model on the server')
  add = parser.add_argument
  add(
    '--concurrency',
    metavar='N,...',
    help='requests under way: a closed loop (default: 1)',
  )
  add(
    '--rate',
    metavar='QPS,...',
    help='requests a second, with Poisson arrivals: an open loop',
  )
  add(
    '--scenario',
    choices=SCENARIOS,
    help='as in LoadGen: offline (all rows at once, rows a second), '
    'single_stream (one by one, p90), server (Poisson arrivals; the highest '
    'rate whose p99 keeps --sla_ms, or whether --rate does)',
  )
  add(
    '--sla_ms',
    type=float,
    help=f'target of scenario server (default: {_SLA_MS:g}, as in MLPerf)',
  )
  add('--seconds', type=float, default=10.0, help='of a load (default: 10)')
  add('--batch', type=int, help='rows of a request (default: 1)')
  add(
    '--sizes',
    help=f'in place of --batch, {HELP} (default of scenario server: mlperf)',
  )
  add(
    '--data',
    metavar='FILE',
    help='raw rows, Parquet or CSV with names of columns; or the inputs of the '
    'network, in columns with their names (default: made-up rows)',
  )
  add(
    '--retry',
    action='store_true',
    help='send refused requests again, after the time that the server names in '
    'Retry-After',
  )
  add(
    '--token_file',
    metavar='FILE',
    help='file with the token that the server asks for',
  )
  add(
    '--tls_cert',
    metavar='FILE',
    help='certificate in PEM to trust (default: those that are known)',
  )
  add('--seed', type=int, default=0, help='of all draws (default: 0)')
  add('--json', metavar='FILE', help='file for the numbers')
  return parser


def check_installed() -> None:
  """Raises InputError where a package of the extra `serve` is missing."""
  missing = [n for n in NEEDED if importlib.util.find_spec(n) is None]
  if missing:
    raise InputError(
      f"load_test needs {', '.join(missing)}: pip install 'dlrm_jax[serve]'"
    )


def _numbers(flag: str, text: str, whole: bool) -> list[float]:
  """Numbers above 0, between commas."""
  found = []
  for word in text.split(','):
    try:
      value = float(word)
    except ValueError:
      value = math.nan
    if not 0 < value < math.inf or (whole and value != int(value)):
      kind = 'whole numbers' if whole else 'numbers'
      raise InputError(f'--{flag}={text}: expected {kind} above 0')
    found.append(value)
  return found


def _concurrency(flags: argparse.Namespace) -> list[int]:
  if flags.concurrency is None:
    return [] if flags.rate is not None or flags.scenario else [1]
  if flags.rate is not None:
    raise InputError(
      '--concurrency is of closed loops, --rate of open ones; give one of them'
    )
  found = [int(x) for x in _numbers('concurrency', flags.concurrency, True)]
  if max(found) > _MOST:
    raise InputError(
      f'--concurrency={flags.concurrency}: expected at most {_MOST:,}'
    )
  return found


def _check_scenario(flags: argparse.Namespace) -> None:
  """Raises InputError for a flag that the scenario has no use of."""
  name = flags.scenario
  use = {
    'offline': {'concurrency'},
    'server': {'rate', 'sla_ms'},
    'single_stream': set(),
    None: {'concurrency', 'rate'},
  }[name]
  for flag in ('concurrency', 'rate', 'sla_ms'):
    value = getattr(flags, flag)
    if value is not None and flag not in use:
      of = f'--scenario={name}' if name else 'a test without a scenario'
      raise InputError(f'--{flag}={value}: {of} has no use of it')
    if name and value is not None and ',' in str(value):
      raise InputError(f'--{flag}={value}: a scenario has one')


def _sizes(flags: argparse.Namespace) -> Sizes:
  if flags.batch is not None and flags.sizes is not None:
    raise InputError('--batch and --sizes both say how many rows; give one')
  if flags.sizes is not None:
    return read_sizes(flags.sizes)
  if flags.batch is None and flags.scenario == 'server':
    return read_sizes('mlperf')
  return read_sizes(str(1 if flags.batch is None else flags.batch), '--batch')


def _tls_cert(flags: argparse.Namespace) -> str | None:
  if flags.tls_cert is None:
    return None
  if not flags.url.startswith(('grpcs:', 'https:')):
    raise InputError(
      f'--tls_cert={flags.tls_cert}: --url={flags.url} is without TLS; '
      'expected grpcs://HOST:PORT or https://HOST:PORT'
    )
  try:
    ssl.create_default_context(cafile=flags.tls_cert)
  except OSError as error:
    raise InputError(
      f'--tls_cert={flags.tls_cert}: {error}; expected a certificate in PEM'
    ) from None
  return flags.tls_cert


def wanted_of(flags: argparse.Namespace) -> Wanted:
  """What flags ask for.

  Raises:
    InputError: a flag has a value that it cannot have.
  """
  _check_scenario(flags)
  for flag in ('seconds', 'sla_ms'):
    value = getattr(flags, flag)
    if value is not None and not 0 < value < math.inf:
      raise InputError(f'--{flag}={value:g}: expected a number above 0')
  bound = (flags.sla_ms or _SLA_MS) / 1e3
  if flags.scenario == 'server' and bound > flags.seconds * _SHARE:
    raise InputError(
      f'--seconds={flags.seconds:g}: within so short a time, a server that '
      f'falls behind keeps {1e3 * bound:g} ms, too; give at least '
      f'{bound / _SHARE:g}'
    )
  if flags.seed < 0:
    raise InputError(f'--seed={flags.seed}: expected 0 or more')
  return Wanted(
    url=flags.url,
    model=flags.model,
    scenario=flags.scenario or '',
    concurrency=_concurrency(flags),
    rates=[] if flags.rate is None else _numbers('rate', flags.rate, False),
    bound=bound,
    sizes=_sizes(flags),
    seconds=flags.seconds,
    data=flags.data,
    seed=flags.seed,
    retry=flags.retry,
    token=read_token(flags.token_file),
    tls_cert=_tls_cert(flags),
  )
