"""From blocks to batches: batch number `step` is a function of its number.

The examples of an epoch are its blocks, in an order drawn from (seed, epoch),
one after the other. That line is cut into `lanes` of equal length; a lane
draws its examples from a window that holds a few blocks and is shuffled as a
whole. A batch takes an equal share from every lane, and runs on into the
next epoch where one ends. So

* any batch is made without the ones before it: training resumes at a step;
* a process reads only its own lanes, and the global batch is the same for
  any number of processes that divides the lanes;
* with a window of all blocks the shuffle is complete.

Grain does the rest: threads, prefetching, order.
"""

import collections
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator

import grain
import numpy as np

from dlrm_jax.batch import PAD, Batch
from dlrm_jax.data.rebatch import rebatch
from dlrm_jax.data.schema import (
  BLOCK_ROWS,
  Block,
  Source,
  join,
  take,
)
from dlrm_jax.errors import InputError

_KEPT_WINDOWS = 3  # of each lane: the one in use, its successor, one late


@dataclasses.dataclass(frozen=True)
class Reading:
  """How a source is cut into batches.

  Attributes:
    batch_size: examples of a global batch.
    lanes: parts that are read independently; a multiple of the processes.
    window: blocks of a lane that are shuffled together.
    seed: of the shuffle.
  """

  batch_size: int
  lanes: int = 8
  window: int = 16
  seed: int = 0

  def __post_init__(self) -> None:
    if self.batch_size < 1 or self.batch_size % self.lanes:
      raise InputError(
        f'batch_size {self.batch_size}: must be a positive multiple of the '
        f'{self.lanes} lanes (data.lanes)'
      )
    if self.window < 1:
      raise InputError(f'window {self.window}: must be at least one block')


class _Shuffled:
  """Endless shuffled batches by number."""

  def __init__(
    self, source: Source, reading: Reading, process: int, processes: int
  ) -> None:
    if reading.lanes % processes:
      raise InputError(
        f'data.lanes {reading.lanes}: must be a multiple of the {processes} '
        f'processes'
      )
    if source.examples < reading.lanes:
      raise InputError(
        f'{source.examples} examples are too few to train on: at least '
        f'{reading.lanes}, one for each lane (data.lanes)'
      )
    share = reading.lanes // processes
    self._lanes = [
      _Lane(source, reading, lane)
      for lane in range(process * share, (process + 1) * share)
    ]
    self._size = reading.batch_size // reading.lanes

  def make(self, step: int) -> Batch:
    first = step * self._size
    parts = [
      part
      for lane in self._lanes
      for part in lane.read(first, first + self._size)
    ]
    return _as_batch(parts)


class _Lane:
  """One lane: its examples by position, in an endless row of epochs."""

  def __init__(self, source: Source, reading: Reading, lane: int) -> None:
    self._source, self._reading, self._lane = source, reading, lane
    self._start = lane * source.examples // reading.lanes
    self._stop = (lane + 1) * source.examples // reading.lanes
    self._orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    self._windows: collections.OrderedDict[
      tuple[int, int], tuple[Block, np.ndarray]
    ] = collections.OrderedDict()
    self._lock = threading.Lock()

  def read(self, first: int, last: int) -> Iterator[Block]:
    """Examples first ... last - 1 of the lane, in pieces."""
    size = self._stop - self._start
    length = self._reading.window * BLOCK_ROWS
    while first < last:
      epoch, position = divmod(first, size)
      number = position // length
      block, order = self._window(epoch, number)
      inside = position - number * length
      count = min(last - first, len(order) - inside)
      yield take(block, order[inside : inside + count])
      first += count

  def _window(self, epoch: int, number: int) -> tuple[Block, np.ndarray]:
    key = (epoch, number)
    with self._lock:
      if key not in self._windows:
        self._windows[key] = self._load(epoch, number)
        while len(self._windows) > _KEPT_WINDOWS:
          self._windows.popitem(last=False)
      self._windows.move_to_end(key)
      return self._windows[key]

  def _load(self, epoch: int, number: int) -> tuple[Block, np.ndarray]:
    length = self._reading.window * BLOCK_ROWS
    start = self._start + number * length
    stop = min(start + length, self._stop)
    blocks, ends = _epoch_order(self._source, self._reading.seed, epoch)
    pieces = []
    for i in range(
      int(np.searchsorted(ends, start, 'right')),
      int(np.searchsorted(ends, stop, 'left')) + 1,
    ):
      block = self._source[int(blocks[i])]
      begin = int(ends[i]) - len(block.labels)
      rows = slice(max(start - begin, 0), stop - begin)
      pieces.append(take(block, rows))
    rng = np.random.default_rng((self._reading.seed, epoch, self._lane, number))
    return join(pieces), rng.permutation(stop - start)


def _epoch_order(
  source: Source, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
  """Blocks of an epoch in their order, and where each of them ends."""
  order = np.random.default_rng((seed, epoch)).permutation(len(source))
  sizes = np.full(len(source), BLOCK_ROWS, np.int64)
  sizes[-1] = source.examples - BLOCK_ROWS * (len(source) - 1)
  return order, np.cumsum(sizes[order])


class _InOrder:
  """Every example once, in file order; the last batch padded."""

  def __init__(
    self, source: Source, batch_size: int, process: int, processes: int
  ) -> None:
    self._source = source
    self._share = batch_size // processes
    self._batch_size = batch_size
    self._process = process
    self._block = _Last(source)

  def __len__(self) -> int:
    return -(-self._source.examples // self._batch_size)

  def make(self, step: int) -> Batch:
    first = step * self._batch_size + self._process * self._share
    last = min(first + self._share, self._source.examples)
    parts = []
    while first < last:
      number, inside = divmod(first, BLOCK_ROWS)
      stop = min(BLOCK_ROWS, inside + last - first)
      parts.append(take(self._block[number], slice(inside, stop)))
      first += stop - inside
    if not parts:
      parts = [take(self._block[0], slice(0, 0))]
    return _padded(_as_batch(parts), self._share)


class _Last:
  """Remembers the block that was read last: batches walk through it."""

  def __init__(self, source: Source) -> None:
    self._source, self._held = source, (-1, Block(*[np.zeros(0)] * 3))

  def __getitem__(self, number: int) -> Block:
    held, block = self._held
    if held != number:
      block = self._source[number]
      self._held = (number, block)
    return block


def _as_batch(blocks: list[Block]) -> Batch:
  dense, ids, labels, id_weights, weights = join(blocks)
  weights = np.ones_like(labels) if weights is None else weights
  return Batch(dense, ids, labels, weights, id_weights)


def _padded(batch: Batch, size: int) -> Batch:
  missing = size - len(batch.labels)
  if missing == 0:
    return batch

  def fill(x: np.ndarray, value: int) -> np.ndarray:
    widths = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
    return np.pad(x, widths, constant_values=value)

  return Batch(
    dense=fill(batch.dense, 0),
    ids=fill(batch.ids, PAD),
    labels=fill(batch.labels, 0),
    weights=fill(batch.weights, 0),
    id_weights=None if batch.id_weights is None else fill(batch.id_weights, 0),
  )


def _prefetched(make: Callable[[int], Batch], steps: range) -> Iterator[Batch]:
  """Batches of these numbers in order, made ahead in a thread of Grain's."""
  numbers = grain.MapDataset.range(steps.start, steps.stop)
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
  return iter(numbers.map(make).to_iter_dataset(options))


def training_batches(
  source: Source,
  reading: Reading,
  first_step: int = 0,
  process: int = 0,
  processes: int = 1,
) -> Iterator[Batch]:
  """Shuffled batches for ever, from batch number `first_step` on.

  Args:
    source: the blocks.
    reading: how to cut them.
    first_step: number of the first batch; nothing before it is read.
    process: this process; it gets its part of every global batch.
    processes: how many there are.
  """
  batches = _Shuffled(source, reading, process, processes)
  return _prefetched(batches.make, range(first_step, np.iinfo(np.int32).max))


def _check_shares(batch_size: int, processes: int) -> None:
  if batch_size < 1 or batch_size % processes:
    raise InputError(
      f'evaluation batch size {batch_size}: must be a positive multiple of the '
      f'{processes} processes'
    )


def evaluation_batches(
  source: Source, batch_size: int, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
  """Every example once, in order; weight 0 pads the last batch.

  Args:
    source: the blocks.
    batch_size: of the global batch, a multiple of `processes`.
    process: this process; it gets its part of every global batch.
    processes: how many there are.
  """
  _check_shares(batch_size, processes)
  batches = _InOrder(source, batch_size, process, processes)
  return _prefetched(batches.make, range(len(batches)))


def stream_batches(
  blocks: Iterable[Block], batch_size: int, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
  """Blocks of any size as batches; weight 0 pads the last one.

  Args:
    blocks: of all examples; every process reads them all.
    batch_size: of the global batch, a multiple of `processes`.
    process: this process; it gets its part of every global batch.
    processes: how many there are.
  """
  _check_shares(batch_size, processes)
  share = batch_size // processes
  part = slice(process * share, (process + 1) * share)
  for block in rebatch(blocks, batch_size):
    yield _padded(_as_batch([take(block, part)]), share)
