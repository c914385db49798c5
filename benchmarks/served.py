"""What serving costs: requests to a server beside the compiled function.

python -m benchmarks.served --model=DIR [--rounds=3] [--overload=SECONDS]

DIR is an export or a workdir. Client and server share this machine. `alone` is
the server's own program, called in this process. With --overload, 256 callers
send batches of 1,024 rows without a pause, and every answer is compared with
that to its own rows.
"""

import argparse
import asyncio
import collections
import contextlib
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import jax
import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http

from benchmarks import machine
from dlrm_jax.batch import Inputs
from dlrm_jax.scoring.load import load
from dlrm_jax.serving.program import Program

CALLS = {1: 3000, 64: 1000, 1024: 150}
CLIENTS, CALLERS = 16, 256
_POOL = 32  # requests of each size, taken in turn
_INFER = '/inference.GRPCInferenceService/ModelInfer'


class Server:
  """A server in a process of its own.

  Attributes:
    http: its address, without a scheme.
    grpc: likewise.
  """

  def __init__(self, folder: str) -> None:
    command = [
      sys.executable,
      '-m',
      'dlrm_jax.serve',
      f'--model=model={folder}',
    ]
    self._process = subprocess.Popen(
      [*command, '--http=0', '--grpc=0'],
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    assert self._process.stdout is not None
    text = ''
    while 'ready' not in text:
      line = self._process.stdout.readline()
      if not line:
        raise SystemExit(f'{" ".join(command)}: {self._process.wait()}')
      text += line
    print(text, end='', flush=True)
    self.http, self.grpc = re.findall(r'://([\d.]+:\d+)', text)[:2]

  def cpu_seconds(self) -> float:
    """What it has computed, over all its threads."""
    text = Path(f'/proc/{self._process.pid}/stat').read_text()
    user, system = text.rpartition(')')[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf('SC_CLK_TCK')

  def memory(self) -> float:
    """Its resident memory in MB."""
    text = Path(f'/proc/{self._process.pid}/statm').read_text()
    return int(text.split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6

  def end(self) -> None:
    """Ends it, which must be in order."""
    self._process.terminate()
    if status := self._process.wait():
      raise SystemExit(f'the server ended with status {status}')


class Asked(NamedTuple):
  """A request and its answer.

  Attributes:
    inputs: the rows.
    message: the request of gRPC, serialized.
    want: probabilities, f32[B, T].
  """

  inputs: Inputs
  message: bytes
  want: np.ndarray


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
  program: Program, rows: list[int], dense: int, count: int
) -> list[Asked]:
  """Requests of so many rows.

  Args:
    program: says the answers.
    rows: number of rows of the table that each id reads.
    dense: number of dense features.
    count: number of rows of a request.
  """
  rng, made = np.random.default_rng(count), []
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
    want = program(inputs)[..., 0]
    made.append(Asked(inputs, request.SerializeToString(), want))
  return made


def timed(call: Callable[[Asked], Any], asked: list[Asked], calls: int) -> Any:
  """Milliseconds of calls, one after the other: f64[calls]."""
  seconds = []
  for number in range(calls):
    request = asked[number % len(asked)]
    start = time.perf_counter()
    call(request)
    seconds.append(time.perf_counter() - start)
  return np.array(seconds) * 1e3


def one_client(
  server: Server, program: Program, asked: list[Asked], calls: int
) -> dict[str, dict[str, float]]:
  """p50 and p99 of calls of one client, by what is called."""
  with (
    over_grpc.InferenceServerClient(server.grpc) as by_grpc,
    over_http.InferenceServerClient(server.http) as by_http,
  ):
    ways: dict[str, Callable[[Asked], Any]] = {
      'alone': lambda x: program(x.inputs),
      'gRPC': lambda x: by_grpc.infer('model', _tensors(over_grpc, x.inputs)),
      'HTTP': lambda x: by_http.infer('model', _tensors(over_http, x.inputs)),
    }
    found = {}
    for name, call in ways.items():
      timed(call, asked, calls // 10)
      p50, p99 = np.percentile(timed(call, asked, calls), [50, 99])
      found[name] = {'p50': float(p50), 'p99': float(p99)}
  return found


class Answers:
  """Answers that were checked.

  Attributes:
    counts: number of answers by kind: right, wrong, refused, failed.
    seconds: those of right answers.
    refused_seconds: those of refusals.
  """

  def __init__(self) -> None:
    self.counts: collections.Counter[str] = collections.Counter()
    self.seconds: list[float] = []
    self.refused_seconds: list[float] = []

  async def ask(self, call: Any, number: int, asked: Asked) -> None:
    """Sends a request, and compares the answer with its own."""
    start = time.perf_counter()
    try:
      answer = await call(asked.message)
    except grpc.aio.AioRpcError as error:
      full = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
      self.counts['refused' if full else f'failed: {error.code()}'] += 1
      self.refused_seconds.append(time.perf_counter() - start)
      return
    self.seconds.append(time.perf_counter() - start)
    found = np.frombuffer(answer.raw_output_contents[0], np.float32)
    same = answer.id == str(number) and np.allclose(
      found, asked.want.ravel(), rtol=0, atol=1e-5
    )
    self.counts['right' if same else 'wrong'] += 1


async def _callers(
  address: str, asked: list[Asked], callers: int, seconds: float
) -> Answers:
  """Callers that send one request after the other for some seconds."""
  answers, end = Answers(), time.perf_counter() + seconds
  options = [('grpc.use_local_subchannel_pool', 1)]
  async with contextlib.AsyncExitStack() as stack:
    channels = [
      await stack.enter_async_context(
        grpc.aio.insecure_channel(address, options)
      )
      for _ in range(min(callers, CLIENTS))
    ]
    calls = [
      channel.unary_unary(
        _INFER,
        response_deserializer=over_grpc.service_pb2.ModelInferResponse.FromString,
      )
      for channel in channels
    ]

    async def caller(first: int) -> None:
      number = first
      while time.perf_counter() < end:
        number = (number + 1) % len(asked)
        await answers.ask(calls[first % len(calls)], number, asked[number])

    await asyncio.gather(*map(caller, range(callers)))
  return answers


def many_clients(
  server: Server, program: Program, asked: list[Asked], seconds: float
) -> dict[str, float]:
  """Rows a second of many clients, and CPU time of a row beside `alone`."""
  rows = len(asked[0].want)
  calls = max(20, 4096 // rows)
  timed(lambda x: program(x.inputs), asked, calls)
  start, before = time.perf_counter(), time.process_time()
  timed(lambda x: program(x.inputs), asked, calls)
  alone = (time.process_time() - before) / calls / rows
  alone_rate = calls * rows / (time.perf_counter() - start)
  before = server.cpu_seconds()
  answers = asyncio.run(_callers(server.grpc, asked, CLIENTS, seconds))
  spent = server.cpu_seconds() - before
  count = answers.counts['right'] * rows
  if set(answers.counts) != {'right'}:
    raise SystemExit(f'answers: {dict(answers.counts)}')
  return {
    'rows/s alone': alone_rate,
    'rows/s served': count / seconds,
    'CPU us/row alone': alone * 1e6,
    'CPU us/row served': spent / count * 1e6,
    'p99 ms': float(np.percentile(answers.seconds, 99)) * 1e3,
  }


def overload(
  server: Server, light: list[Asked], heavy: list[Asked], seconds: float
) -> Iterator[dict[str, Any]]:
  """Rows about a light load, the overload, and the light load after it."""
  for name, asked, callers, span in (
    ('before', light, 1, 10.0),
    ('overload', heavy, CALLERS, seconds),
    ('after', light, 1, 10.0),
  ):
    answers = asyncio.run(_callers(server.grpc, asked, callers, span))
    right = answers.counts['right']
    sent = sum(answers.counts.values())
    p50, p99 = np.percentile(answers.seconds, [50, 99])
    yield {
      'load': name,
      'seconds': span,
      'sent/s': sent / span,
      'answered/s': right / span,
      'sent over answered': sent / right,
      **{k: v for k, v in answers.counts.items() if k != 'right'},
      'p50 ms': float(p50) * 1e3,
      'p99 ms': float(p99) * 1e3,
      'p99 of refusals ms': float(
        np.percentile(answers.refused_seconds or [np.nan], 99)
      )
      * 1e3,
      'memory MB': server.memory(),
    }


def main() -> None:
  """Measures, and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model', required=True)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--overload', type=float, default=0.0)
  arguments = parser.parse_args()
  jax.config.update('jax_cpu_enable_async_dispatch', False)  # as the server
  model = load(arguments.model)
  program = Program(model.network, max(CALLS), weighted=False)
  schema = model.card.schema
  rows = [
    column.rows for column in schema.sparse for _ in range(column.hotness)
  ]
  asked = {n: requests(program, rows, len(schema.dense), n) for n in CALLS}
  server = Server(arguments.model)
  lines: list[dict[str, Any]] = []
  for count, calls in CALLS.items():
    seen = [
      one_client(server, program, asked[count], calls)
      for _ in range(arguments.rounds)
    ]
    for name in ('alone', 'gRPC', 'HTTP'):
      lines.append(
        {'rows': count, 'one client': name}
        | {
          f'{q} ms': statistics.median(round[name][q] for round in seen)
          for q in ('p50', 'p99')
        }
      )
  machine.show('served, one client', lines)
  lines = []
  for count in CALLS:
    seen = [
      many_clients(server, program, asked[count], 5.0)
      for _ in range(arguments.rounds)
    ]
    middle = {k: statistics.median(x[k] for x in seen) for k in seen[0]}
    lines.append({'rows': count, 'clients': CLIENTS} | middle)
  machine.show('served, many clients', lines)
  if arguments.overload:
    found = overload(server, asked[1], asked[1024], arguments.overload)
    machine.show('served, overload', list(found))
  server.end()


if __name__ == '__main__':
  main()
