"""What serving costs: requests to a server beside the compiled function.

python -m benchmarks.served --model=DIR [--overload=SECONDS] [--reload=DIR]
  [--peer_python=PYTHON]

DIR is an export. Clients and server share this machine. `alone` is the server's
own program, called in this process; `gRPC, a constant` is a server of gRPC that
answers at once. With --overload, ten times the requests of
1,024 rows come that the server can answer; with --reload, another export and
the first one take turns as its versions. All answers but those
to one client are compared with those of the function. The peer is torchrec's
model behind FastAPI.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http

from benchmarks import (
  constant_server,
  grpc_load,
  http_load,
  machine,
  peers,
  served_peer,
  served_trials,
)
from benchmarks.server_process import Server
from dlrm_jax.batch import Inputs
from dlrm_jax.scoring.load import load
from dlrm_jax.scoring.model import Model
from dlrm_jax.serving.program import Program

CALLS = {1: 3000, 64: 1000, 1024: 150}
SECONDS = 3.0
_POOL = 32  # requests of each size, taken in turn


class Sized(NamedTuple):
  """Requests of one number of rows.

  Attributes:
    inputs: the rows of each.
    asked: the requests of gRPC, and their answers.
    posts: those of HTTP, with tensors in bytes.
  """

  inputs: list[Inputs]
  asked: list[grpc_load.Asked]
  posts: list[bytes]


def _tensors(module: Any, inputs: Inputs) -> list[Any]:
  made = []
  for name, kind, array in (
    ('dense', 'FP32', inputs.dense),
    ('ids', 'INT32', inputs.ids),
  ):
    made.append(module.InferInput(name, array.shape, kind))
    made[-1].set_data_from_numpy(array)
  return made


def requests(
  programs: Sequence[Program], rows: Sequence[int], dense: int, count: int
) -> Sized:
  """Requests of so many rows.

  Args:
    programs: say the answers, of the first version and of the second.
    rows: number of rows of the table that each id reads.
    dense: number of dense features.
    count: number of rows of a request.
  """
  rng, made = np.random.default_rng(count), Sized([], [], [])
  for number in range(_POOL):
    inputs = Inputs(
      rng.random((count, dense), np.float32),
      rng.integers(0, rows, (count, len(rows)), np.int32),
    )
    request = over_grpc.service_pb2.ModelInferRequest(
      model_name='model', id=str(number)
    )
    for tensor in _tensors(over_grpc, inputs):
      request.inputs.append(tensor._get_tensor())
      request.raw_input_contents.append(tensor._get_content())
    wants = [program(inputs)[..., 0] for program in programs]
    body, size = over_http.InferenceServerClient.generate_request_body(
      _tensors(over_http, inputs),
      [over_http.InferRequestedOutput('probability')],
    )
    headers = f'Inference-Header-Content-Length: {size}\r\n'
    post = http_load.post('/v2/models/model/infer', body, headers)
    made.inputs.append(inputs)
    made.asked.append(grpc_load.Asked(request.SerializeToString(), wants))
    made.posts.append(post)
  return made


def timed(
  call: Callable[[Inputs], Any], inputs: Sequence[Inputs], calls: int
) -> np.ndarray:
  """Milliseconds of calls, one after the other: f64[calls]."""
  seconds = []
  for number in range(calls):
    rows = inputs[number % len(inputs)]
    start = time.perf_counter()
    call(rows)
    seconds.append(time.perf_counter() - start)
  return np.array(seconds) * 1e3


def one_client(
  server: Server, constant: Server, program: Program, sized: Sized, calls: int
) -> dict[str, dict[str, float]]:
  """p50 and p99 of calls of one client, by what is called."""
  http, grpc = server.addresses
  with (
    over_grpc.InferenceServerClient(grpc) as by_grpc,
    over_grpc.InferenceServerClient(constant.addresses[0]) as by_constant,
    over_http.InferenceServerClient(http) as by_http,
  ):
    ways: dict[str, Callable[[Inputs], Any]] = {
      'alone': program,
      'gRPC, a constant': lambda x: by_constant.infer(
        'model', _tensors(over_grpc, x)
      ),
      'gRPC': lambda x: by_grpc.infer('model', _tensors(over_grpc, x)),
      'HTTP': lambda x: by_http.infer('model', _tensors(over_http, x)),
    }
    found = {}
    for name, call in ways.items():
      timed(call, sized.inputs, calls // 10)
      p50, p99 = np.percentile(timed(call, sized.inputs, calls), [50, 99])
      found[name] = {'p50 ms': float(p50), 'p99 ms': float(p99)}
  return found


def many_clients(
  server: Server, program: Program, sized: Sized
) -> dict[str, dict[str, float]]:
  """Rows a second and CPU time of a row, alone and by many clients."""
  rows = len(sized.inputs[0].ids)
  calls = max(20, 4096 // rows)
  timed(program, sized.inputs, calls)
  start, before = time.perf_counter(), time.process_time()
  timed(program, sized.inputs, calls)
  alone = (time.process_time() - before) / calls / rows
  rate = calls * rows / (time.perf_counter() - start)
  found = {'alone': {'rows/s': rate, 'CPU us/row': alone * 1e6}}
  http, grpc = server.addresses

  def by_grpc() -> http_load.Load:
    over = grpc_load.after(SECONDS)
    answers = asyncio.run(
      grpc_load.callers(grpc, sized.asked, grpc_load.CONNECTIONS, over)
    )
    if set(answers.counts) != {'right'}:
      raise SystemExit(f'answers: {dict(answers.counts)}')
    count = answers.counts['right']
    p50, p99 = np.percentile(answers.seconds, [50, 99])
    return http_load.Load(count, count / SECONDS, float(p50), float(p99))

  def by_http() -> http_load.Load:
    return asyncio.run(
      http_load.load(
        *(http, sized.posts, checking(sized), grpc_load.CONNECTIONS, SECONDS)
      )
    )

  for name, way in (('gRPC', by_grpc), ('HTTP', by_http)):
    before = server.cpu_seconds()
    seen = way()
    spent = (server.cpu_seconds() - before) / seen.count / rows
    found[name] = {
      'rows/s': seen.rate * rows,
      'CPU us/row': spent * 1e6,
      'CPU over alone, %': (spent / alone - 1) * 100,
      'p99 ms': seen.p99 * 1e3,
    }
  return found


def checking(sized: Sized) -> Callable[[int, bytes], None]:
  """Compares answers of HTTP, at whose end the probabilities are."""

  def check(number: int, answer: bytes) -> None:
    want = sized.asked[number].wants[0].ravel()
    found = np.frombuffer(answer[-want.nbytes :], np.float32)
    if not np.allclose(found, want, rtol=0, atol=1e-5):
      raise SystemExit(f'a wrong answer: {answer[:200]!r}')

  return check


def _medians(
  measure: Callable[[], dict[str, dict[str, float]]], rounds: int
) -> dict[str, dict[str, float]]:
  seen = [measure() for _ in range(rounds)]
  return {
    name: {k: statistics.median(x[name][k] for x in seen) for k in values}
    for name, values in seen[0].items()
  }


def program_of(model: Model) -> Program:
  """The compiled function, as the server has it."""
  program = Program(model.network, max(CALLS), weighted=False)
  for size in CALLS:
    program.compile(size)
  return program


def main() -> None:
  """Measures, and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model', required=True)
  parser.add_argument('--overload', type=float, default=0.0)
  parser.add_argument('--reload', default='')
  peers.add_flags(parser, rounds=3)
  arguments = parser.parse_args()
  rounds, found = arguments.rounds, peers.find(arguments)
  jax.config.update('jax_cpu_enable_async_dispatch', False)  # as the server
  model = load(arguments.model)
  programs = [program_of(model)]
  schema = model.card.schema
  rows = [
    column.rows for column in schema.sparse for _ in range(column.hotness)
  ]
  sized = {n: requests(programs, rows, len(schema.dense), n) for n in CALLS}
  with Server(served_trials.command(arguments.model)) as server:
    lines: list[dict[str, Any]] = []
    with Server([sys.executable, '-m', constant_server.__name__]) as constant:
      for count, calls in CALLS.items():
        seen = _medians(
          lambda n=count, c=calls: one_client(
            server, constant, programs[0], sized[n], c
          ),
          rounds,
        )
        lines += [{'rows': count, 'one client': x} | y for x, y in seen.items()]
    machine.show('served, one client', lines)
    lines, rated = [], 0.0
    for count in CALLS:
      seen = _medians(
        lambda n=count: many_clients(server, programs[0], sized[n]), rounds
      )
      name = f'{grpc_load.CONNECTIONS} clients'
      lines += [{'rows': count, name: x} | y for x, y in seen.items()]
      rated = seen['gRPC']['rows/s'] / count
    machine.show('served, many clients', lines)
    if found.torchrec:
      lines = []
      with Server(served_peer.command(found.python, rows)) as peer:
        for count in (1, 64):
          inputs, _, posts = sized[count]
          check = checking(sized[count])
          lines.append(
            served_peer.compare(server, peer, posts, check, inputs, rounds)
          )
      machine.show('served, beside torchrec', lines)
    if arguments.overload:
      light, heavy = sized[1].asked, sized[max(CALLS)].asked
      trial = served_trials.overload(
        server, light, heavy, rated, arguments.overload
      )
      machine.show('served, overload', list(trial))
  if arguments.reload:
    programs.append(program_of(load(arguments.reload)))
    asked = requests(programs, rows, len(schema.dense), 64).asked
    folders = arguments.model, arguments.reload
    machine.show('served, reloads', [served_trials.reloads(folders, asked)])


if __name__ == '__main__':
  main()
