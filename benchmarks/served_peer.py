"""The most that a server answers, beside torchrec's model behind FastAPI."""

import asyncio
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import http_load, peers
from benchmarks.http_load import Load
from benchmarks.server_process import Server
from dlrm_jax.batch import Inputs

_LADDER = (1, 4, 16, 64)  # callers
_SECONDS = 2.0


def command(python: str, rows: Sequence[int]) -> list[str]:
  """The command of the peer.

  Args:
    python: that has it.
    rows: of each table.
  """
  of_tables = ','.join(map(str, rows))
  return [python, '-m', 'benchmarks.peer_server', f'--rows={of_tables}']


def compare(
  server: Server,
  peer: Server,
  posts: Sequence[bytes],
  check: Callable[[int, bytes], None],
  inputs: Sequence[Inputs],
  rounds: int,
) -> dict[str, Any]:
  """The row of one number of rows: requests a second at equal p99.

  Each server is asked by 1, 4, 16 and 64 callers. The p99 is that of the peer
  where it answers most.

  Args:
    server: ours.
    peer: torchrec's.
    posts: requests to ours.
    check: checks answers of ours.
    inputs: the rows of the requests.
    rounds: measurements of each rung, of which the medians count.
  """
  ours, theirs = [], []
  to_peer = [
    http_load.post('/score', x.dense.tobytes() + x.ids.tobytes())
    for x in inputs
  ]
  count = len(inputs[0].ids)
  for callers in _LADDER:
    mine, other = [], []
    for _ in range(rounds):
      mine.append(_load(server, posts, check, callers))
      other.append(_load(peer, to_peer, _checking(count), callers))
    ours.append(_middle(mine))
    theirs.append(_middle(other))
  best = max(theirs, key=lambda load: load.rate)
  # ... a load of ours that is slower than the peer's counts for nothing
  within = [load.rate for load in ours if load.p99 <= best.p99]
  return peers.row(
    f'requests/s of {count} rows, p99 within {best.p99 * 1e3:.3g} ms',
    '1/s',
    {peers.OURS: max(within, default=0.0), peers.TORCHREC: best.rate},
  )


def _load(
  server: Server,
  requests: Sequence[bytes],
  check: Callable[[int, bytes], None],
  callers: int,
) -> Load:
  address = server.addresses[0]
  return asyncio.run(
    http_load.load(address, requests, check, callers, _SECONDS)
  )


def _middle(loads: Sequence[Load]) -> Load:
  return Load(*map(statistics.median, zip(*loads, strict=True)))


def _checking(count: int) -> Callable[[int, bytes], None]:
  """Checks that an answer is of so many rows."""

  def check(number: int, answer: bytes) -> None:
    head, _, body = answer.partition(b'\r\n\r\n')
    if b' 200 ' not in head or len(body) != 4 * count:
      raise SystemExit(f'an answer of the peer: {answer[:200]!r}')

  return check
