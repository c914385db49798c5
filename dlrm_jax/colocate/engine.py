"""An engine: a process that has a model, draws its own queries and serves them.

There are no sockets: what is measured is the model, beside others. The engine
obeys orders that come through a pipe; a `Load` without end is served until the
next message, which is `STOP`.
"""

import concurrent.futures
import contextlib
import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.colocate.line import Line, Load, Piece, Served, parts_of
from dlrm_jax.colocate.models import POOL, Spec, draw_items, load
from dlrm_jax.errors import InputError
from dlrm_jax.queries.seeds import CONTENT

STOP = None
"""The message that ends a load without end, and an engine that has none."""

LARGEST = 1024
"""Most rows of the compiled functions."""

_LEAST = 8  # rows
_WARM = 3  # calls of each, before any is timed


class Setting(NamedTuple):
  """What an engine is.

  Attributes:
    spec: its model.
    cores: the cores that it may use.
    split: most items of a piece of a query, `LARGEST` at most.
    sizes: i64[n], items of its queries, in turn.
    exponent: of the power law of ids.
    seed: of everything.
    number: number of the engine, which tells its draws from those of others.
  """

  spec: Spec
  cores: tuple[int, ...]
  split: int
  sizes: np.ndarray
  exponent: float
  seed: int
  number: int


class Timing(NamedTuple):
  """An order to time batches, one after the other.

  Attributes:
    begin: time of the start, as in `Load`.
    seconds: duration.
  """

  begin: float
  seconds: float


class Part(NamedTuple):
  """Mean seconds of a call.

  Attributes:
    wall: by the clock.
    cpu: of processors: what the engine computed, or waited for memory, without
      the time that other processes had its cores.
  """

  wall: float
  cpu: float


class Times(NamedTuple):
  """What a batch takes.

  Attributes:
    began: time of the first call.
    ended: time of the end of the last.
    rows: examples of a batch.
    calls: number of calls of each function.
    whole: the compiled model.
    lookup: rows of tables to the vectors that the model gets.
    layers: these vectors to logits.
  """

  began: float
  ended: float
  rows: int
  calls: int
  whole: Part
  lookup: Part
  layers: Part


class Ready(NamedTuple):
  """An engine can serve.

  Attributes:
    bytes: of memory that it holds.
    seconds: what its start took.
  """

  bytes: int
  seconds: float


def padded_size(items: int) -> int:
  """Rows that so many items are padded to: a power of two, or 1.5 of them.

  >>> [padded_size(n) for n in (1, 9, 32, 33, 165)]
  [8, 12, 32, 48, 192]
  """
  power = 1 << max(items - 1, _LEAST - 1).bit_length()
  three_quarters = 3 * power // 4
  return three_quarters if items <= three_quarters > _LEAST else power


class Engine:
  """A model with its compiled functions."""

  def __init__(self, setting: Setting) -> None:
    """Loads the model and compiles its functions for all sizes of pieces."""
    import jax

    from dlrm_jax.scoring.function import compiled_score

    self._setting = setting
    loaded = load(setting.spec, setting.seed)
    rng = np.random.default_rng([CONTENT, setting.seed, setting.number])
    self._items = draw_items(loaded, setting.exponent, rng)
    self._layers, self._tables = loaded.layers, loaded.tables
    self._score = compiled_score(loaded.network)
    self._lookup = jax.jit(loaded.network.encoded)
    self._apply = jax.jit(loaded.network.of_encoded)
    pieces = [parts_of(int(n), setting.split) for n in setting.sizes]
    self._sizes = sorted({padded_size(n) for parts in pieces for n in parts})
    usual = np.median([parts[0] for parts in pieces])
    self._rows = padded_size(int(usual))
    self._threads = concurrent.futures.ThreadPoolExecutor(len(setting.cores))

  def warm(self) -> None:
    """Calls all functions, which compiles them."""
    for size in self._sizes:
      for _ in range(_WARM):
        self._compute(Piece(0, 0.0, size, 0))
    self._time(Timing(time.monotonic(), 0.0))

  def obey(self, order: Load | Timing, connection: Connection) -> Any:
    """Does what an order says; the connection may say when to stop."""
    if isinstance(order, Timing):
      return self._time(order)
    return self._serve(order, connection)

  def _inputs(self, first: int, items: int) -> Any:
    """Inputs of so many items, as they come with a query."""
    import jax

    start = first % (POOL - items + 1)
    return jax.tree.map(lambda x: x[start : start + items], self._items)

  def _compute(self, piece: Piece) -> None:
    from dlrm_jax.scoring.scorer import padded

    inputs = self._inputs(piece.first, piece.items)
    inputs = padded(inputs, padded_size(piece.items))
    self._score(self._layers, self._tables, inputs).block_until_ready()

  def _serve(self, order: Load, connection: Connection) -> Served:
    setting = self._setting
    seed = setting.seed, setting.number
    line = Line(order, setting.sizes, setting.split, seed, connection.poll)
    _sleep_until(order.begin)
    threads = [
      self._threads.submit(line.work, self._compute) for _ in setting.cores
    ]
    for thread in threads:
      thread.result()
    if order.count is None:
      connection.recv()
    return line.served()

  def _time(self, order: Timing) -> Times:
    import jax

    sums = np.zeros((3, 2))

    def timed(row: int, function: Any, *arguments: Any) -> Any:
      start = time.monotonic(), time.process_time()
      found = jax.block_until_ready(function(*arguments))
      end = time.monotonic(), time.process_time()
      sums[row] += np.subtract(end, start)
      return found

    _sleep_until(order.begin)
    began, calls = time.monotonic(), 0
    while calls < _WARM or time.monotonic() < order.begin + order.seconds:
      inputs = self._inputs(calls * self._rows, self._rows)
      timed(0, self._score, self._layers, self._tables, inputs)
      encoded = timed(1, self._lookup, self._layers, self._tables, inputs)
      timed(2, self._apply, self._layers, inputs, encoded)
      calls += 1
    whole, lookup, layers = (Part(*row) for row in (sums / calls).tolist())
    ended = time.monotonic()
    return Times(began, ended, self._rows, calls, whole, lookup, layers)


def _sleep_until(begin: float) -> None:
  while (ahead := begin - time.monotonic()) > 0:
    time.sleep(ahead)


def _memory() -> int:
  """Bytes that this process has had at most."""
  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run(setting: Setting, connection: Connection) -> None:
  """The process of an engine: says that it is ready, then obeys orders.

  It ends when it is told, and when its parent is gone.
  """
  start = time.monotonic()
  for number in (signal.SIGINT, signal.SIGHUP):  # meant for the parent
    signal.signal(number, signal.SIG_IGN)
  os.sched_setaffinity(0, setting.cores)  # before XLA counts its threads
  with contextlib.suppress(EOFError, BrokenPipeError):
    try:
      engine = _made(setting)
    except InputError as error:
      connection.send(error)
      return
    connection.send(Ready(_memory(), time.monotonic() - start))
    while (order := connection.recv()) is not STOP:
      connection.send(engine.obey(order, connection))


def _made(setting: Setting) -> Engine:
  import jax

  from dlrm_jax.program_cache import keep_programs

  jax.config.update('jax_platforms', 'cpu')
  # Calls are not handed to another thread, but to those that XLA has itself.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  keep_programs()
  engine = Engine(setting)
  engine.warm()
  return engine
