"""Engines beside each other: one is measured while others are under load."""

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Self

import numpy as np

from dlrm_jax.colocate.engine import (
  STOP,
  Ready,
  Setting,
  Times,
  Timing,
  run,
)
from dlrm_jax.colocate.line import Load, Served
from dlrm_jax.colocate.models import Spec
from dlrm_jax.errors import InputError
from dlrm_jax.queries.seeds import SIZES
from dlrm_jax.queries.sizes import Sizes

_AHEAD = 0.1
"""Seconds from an order to its start, so that all engines start at once."""

_QUERIES = 4096  # of an engine, after which their sizes are repeated


class _Remote:
  """An engine, as the parent sees it."""

  def __init__(self, setting: Setting) -> None:
    context = multiprocessing.get_context('spawn')
    self._setting = setting
    self._pipe, end = context.Pipe()
    self.process: SpawnProcess = context.Process(
      target=run, args=(setting, end), daemon=True
    )
    self.process.start()
    end.close()

  def send(self, order: Any) -> None:
    """Sends an order; what has ended is told by `receive`."""
    try:
      self._pipe.send(order)
    except BrokenPipeError:
      self.receive()

  def receive(self) -> Any:
    """The next answer.

    Raises:
      InputError: the engine says so, or it has ended.
    """
    try:
      answer = self._pipe.recv()
    except (EOFError, ConnectionResetError):
      self.process.join()
      code = self.process.exitcode
      why = (
        'killed, mostly for want of memory: choose fewer --copies or a smaller '
        '--scale'
        if code == -9
        else f'it ended with status {code}, and has said why above'
      )
      raise InputError(
        f'engine {self._setting.number + 1} ({self._setting.spec}): {why}'
      ) from None
    if isinstance(answer, InputError):
      raise answer
    return answer

  def end(self) -> None:
    """Ends the process."""
    self.process.terminate()
    self.process.join()
    self._pipe.close()


class Company:
  """Engines with one model; the first of them is measured.

  They end with the `with` statement, and with this process.
  """

  def __init__(
    self,
    spec: Spec,
    cores: Sequence[tuple[int, ...]],
    split: int,
    sizes: Sizes,
    exponent: float,
    seed: int,
  ) -> None:
    """Describes engines, without starting any.

    Args:
      spec: their model.
      cores: groups of cores; engine k has group k modulo their number.
      split: most items of a piece of a query.
      sizes: items of their queries.
      exponent: of the power law of ids.
      seed: of all draws.
    """
    self._cores, self._sizes, self._seed = cores, sizes, seed
    self._common = spec, split, exponent
    self._engines: list[_Remote] = []

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    for engine in self._engines:
      engine.end()

  def add(self) -> Ready:
    """Starts one more engine, and waits until it can serve."""
    number = len(self._engines)
    spec, split, exponent = self._common
    rng = np.random.default_rng([SIZES, self._seed, number])
    setting = Setting(
      spec=spec,
      cores=self._cores[number % len(self._cores)],
      split=split,
      sizes=self._sizes.draw(rng, _QUERIES),
      exponent=exponent,
      seed=self._seed,
      number=number,
    )
    self._engines.append(_Remote(setting))
    return self._engines[-1].receive()

  def _measure(
    self, order: Load | Timing, rate: float, number: int, draw: int = 0
  ) -> tuple[Any, list[Served]]:
    """What the first engine answers, and what others did in the meantime."""
    first, *others = self._engines[:number]
    for other in others:
      other.send(Load(order.begin, rate, draw))
    first.send(order)
    answer = first.receive()
    for other in others:
      other.send(STOP)
    return answer, [other.receive() for other in others]

  def times(self, seconds: float, number: int) -> tuple[Times, list[Served]]:
    """Times of batches of the first engine, the others being fully loaded.

    Args:
      seconds: how long to measure.
      number: number of engines under load.

    Returns:
      The times, and what the other engines served from their start to the end
      of the measurement.
    """
    order = Timing(time.monotonic() + _AHEAD, seconds)
    return self._measure(order, np.inf, number)

  def serve(
    self,
    rate: float,
    count: int,
    number: int,
    bound: float = np.inf,
    misses: int = 0,
    draw: int = 0,
  ) -> tuple[Served, list[Served]]:
    """Queries to the first engine, at a rate that all engines have.

    Others have a load without end until the first has answered all.

    Args:
      rate: queries a second; infinite: as fast as they can.
      count: number of queries.
      number: number of engines under load.
      bound: seconds; a query that takes longer is a miss.
      misses: more of them end the load at once.
      draw: number of the draw of all arrivals.

    Returns:
      What the first engine served, and what the others did.
    """
    begin = time.monotonic() + _AHEAD
    order = Load(begin, rate, draw, count, bound, misses)
    return self._measure(order, rate, number, draw)
