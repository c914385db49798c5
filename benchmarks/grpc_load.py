"""A load over gRPC, every answer of which is checked.

As a program it is a probe: it sends one request after the other from a process
of its own, and prints its `Answers` in JSON.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import pickle
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

CONNECTIONS = 16
_INFER = '/inference.GRPCInferenceService/ModelInfer'
_MOST = 1000  # requests at a time that arrive by a clock
_BETWEEN = 0.02  # seconds between requests of the probe


class Asked(NamedTuple):
  """A request and its answer.

  Attributes:
    message: the request, serialized; its id is its place.
    wants: probabilities, f32[B, T], of the models that take turns as versions.
  """

  message: bytes
  wants: Sequence[np.ndarray]


@dataclasses.dataclass
class Answers:
  """Answers that were checked.

  Attributes:
    counts: number of answers by kind: right, wrong, refused, failed.
    versions: number of right answers by version.
    seconds: those of right answers.
    refused_seconds: those of refusals.
  """

  counts: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  versions: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  seconds: list[float] = dataclasses.field(default_factory=list)
  refused_seconds: list[float] = dataclasses.field(default_factory=list)

  @classmethod
  def of_json(cls, text: bytes) -> 'Answers':
    """What a probe printed."""
    counts, versions, seconds, refused = json.loads(text)
    counter = collections.Counter
    return cls(counter(counts), counter(versions), seconds, refused)

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
    version = answer.model_version
    want = asked.wants[(int(version) - 1) % len(asked.wants)]
    found = np.frombuffer(answer.raw_output_contents[0], np.float32)
    same = answer.id == str(number) and np.allclose(
      found, want.ravel(), rtol=0, atol=1e-5
    )
    self.counts['right' if same else 'wrong'] += 1
    self.versions[version] += same


@contextlib.asynccontextmanager
async def _calls(address: str, count: int) -> AsyncIterator[list[Any]]:
  """The call that scores, over so many connections."""
  options = [('grpc.use_local_subchannel_pool', 1)]
  async with contextlib.AsyncExitStack() as stack:
    channels = [
      await stack.enter_async_context(
        grpc.aio.insecure_channel(address, options)
      )
      for _ in range(count)
    ]
    yield [
      channel.unary_unary(
        _INFER,
        response_deserializer=service_pb2.ModelInferResponse.FromString,
      )
      for channel in channels
    ]


async def callers(
  address: str,
  asked: Sequence[Asked],
  count: int,
  over: Callable[[], bool],
  pause: float = 0.0,
) -> Answers:
  """Callers that send one request after the other until it is over."""
  answers = Answers()
  async with _calls(address, count) as calls:

    async def caller(number: int, call: Any) -> None:
      while not over():
        number = (number + 1) % len(asked)
        await answers.ask(call, number, asked[number])
        if pause:
          await asyncio.sleep(pause)

    await asyncio.gather(*(caller(n, call) for n, call in enumerate(calls)))
  return answers


def after(seconds: float) -> Callable[[], bool]:
  """Whether so many seconds from now are over."""
  end = time.perf_counter() + seconds
  return lambda: time.perf_counter() >= end


async def arrivals(
  address: str, asked: Sequence[Asked], rate: float, seconds: float
) -> Answers:
  """Requests that come so often a second, whatever became of those before.

  Those that would come while 1,000 are under way are left out.
  """
  answers, tasks = Answers(), set()
  async with _calls(address, CONNECTIONS) as calls:
    start, number = time.perf_counter(), 0
    while (now := time.perf_counter()) < start + seconds:
      while start + number / rate <= now:
        number += 1
        if len(tasks) < _MOST:
          at = number % len(asked)
          call = calls[number % len(calls)]
          task = asyncio.create_task(answers.ask(call, at, asked[at]))
          tasks.add(task)
          task.add_done_callback(tasks.discard)
      await asyncio.sleep(max(0, start + number / rate - time.perf_counter()))
    await asyncio.gather(*tasks)
  return answers


def quantiles(seconds: Sequence[float]) -> tuple[float, float]:
  """p50 and p99 in milliseconds; NaN without any."""
  p50, p99 = np.percentile(seconds or [np.nan], [50, 99])
  return float(p50) * 1e3, float(p99) * 1e3


def main() -> None:
  """Probes a server."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('address')
  parser.add_argument('requests', type=Path, help='a pickle of `Asked`')
  parser.add_argument('seconds', type=float)
  flags = parser.parse_args()
  asked = pickle.loads(flags.requests.read_bytes())
  found = asyncio.run(
    callers(flags.address, asked, 1, after(flags.seconds), _BETWEEN)
  )
  json.dump(list(vars(found).values()), sys.stdout)


if __name__ == '__main__':
  main()
