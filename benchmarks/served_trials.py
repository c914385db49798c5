"""Trials of a server of models: ten times its load, and new versions."""

import asyncio
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tritonclient.grpc as over_grpc

from benchmarks import grpc_load
from benchmarks.server_process import Server

_TIMES = 10  # requests that come, over those that can be answered
_LIGHT = 10.0  # seconds of a light load
_RELOADS = 5


def command(folder: str | Path) -> list[str]:
  """The command of the server of a model; any free ports."""
  serve = [sys.executable, '-m', 'dlrm_jax.serve', f'--model=model={folder}']
  return [*serve, '--http=0', '--grpc=0']


def overload(
  server: Server,
  light: Sequence[grpc_load.Asked],
  heavy: Sequence[grpc_load.Asked],
  rated: float,
  seconds: float,
) -> Iterator[dict[str, Any]]:
  """Rows about a light load, the overload, and the light load after it.

  A probe in a process of its own sends light requests during the overload: the
  overload's client waits for itself.

  Args:
    server: the server.
    light: requests of one caller.
    heavy: requests of the overload.
    rated: how many of them the server can answer in a second.
    seconds: of the overload.
  """
  _, grpc = server.addresses

  def one() -> grpc_load.Answers:
    return asyncio.run(
      grpc_load.callers(grpc, light, 1, grpc_load.after(_LIGHT))
    )

  def row(load: str, answers: grpc_load.Answers, span: float) -> dict[str, Any]:
    right = answers.counts['right']
    sent = answers.counts.total()
    p50, p99 = grpc_load.quantiles(answers.seconds)
    refused_p50, refused_p99 = grpc_load.quantiles(answers.refused_seconds)
    return {
      'load': load,
      'sent/s': sent / span,
      'answered/s': right / span,
      'sent over answered': sent / right,
      **{k: v for k, v in answers.counts.items() if k != 'right'},
      'p50 ms': p50,
      'p99 ms': p99,
      'refusals p50 ms': refused_p50,
      'refusals p99 ms': refused_p99,
      'memory MB': server.memory(),
    }

  yield row('before', one(), _LIGHT)
  # Memory is that of what waits, too: the queue fills in the first seconds.
  first = asyncio.run(grpc_load.arrivals(grpc, heavy, _TIMES * rated, _LIGHT))
  yield row('overload, begin', first, _LIGHT)
  with tempfile.NamedTemporaryFile() as file:
    file.write(pickle.dumps(light))
    file.flush()
    probe = subprocess.Popen(
      [sys.executable, '-m', grpc_load.__name__, grpc, file.name, str(seconds)],
      stdout=subprocess.PIPE,
    )
    answers = asyncio.run(
      grpc_load.arrivals(grpc, heavy, _TIMES * rated, seconds)
    )
    text, _ = probe.communicate()
  yield row('overload', answers, seconds)
  yield row('probe', grpc_load.Answers.of_json(text), seconds)
  yield row('after', one(), _LIGHT)


def reloads(
  folders: Sequence[str], asked: Sequence[grpc_load.Asked]
) -> dict[str, Any]:
  """Exports take turns in the place of a model while callers ask.

  Args:
    folders: the exports; the first one is served first.
    asked: requests, and what each export says.
  """
  with tempfile.TemporaryDirectory() as holder:
    place = Path(holder, 'model')
    _link(folders[0], place)
    with Server(command(place)) as server:
      _, grpc = server.addresses
      answers = asyncio.run(_reloading(folders, asked, place, grpc))
  p50, p99 = grpc_load.quantiles(answers.seconds)
  failed = answers.counts.total() - answers.counts['right']
  return {
    'reloads': _RELOADS,
    'answers': answers.counts['right'],
    'failed or wrong': failed,
    'versions that answered': len(answers.versions),
    'p50 ms': p50,
    'p99 ms': p99,
  }


async def _reloading(
  folders: Sequence[str],
  asked: Sequence[grpc_load.Asked],
  place: Path,
  grpc: str,
) -> grpc_load.Answers:
  done = asyncio.Event()
  asking = asyncio.create_task(
    grpc_load.callers(grpc, asked, grpc_load.CONNECTIONS, done.is_set)
  )
  with over_grpc.InferenceServerClient(grpc) as client:
    for number in range(1, _RELOADS + 1):
      _link(folders[number % len(folders)], place)
      await asyncio.to_thread(client.load_model, 'model')
  await asyncio.sleep(1)
  done.set()
  return await asking


def _link(folder: str, place: Path) -> None:
  """Puts a link to a folder in the place of the one before, at once."""
  made = place.with_suffix('.new')
  made.symlink_to(Path(folder).absolute())
  os.replace(made, place)
