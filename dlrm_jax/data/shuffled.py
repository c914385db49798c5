"""Shuffled batches: the examples of a batch follow from its number `step`.

An epoch is the sequence of all examples, whose blocks are in an order drawn
from (seed, epoch). The sequence is cut into `lanes` of equal length. A lane is
read in windows of a few blocks, whose examples are shuffled together. A batch
has an equal number of examples from every lane, and continues with the next
epoch where one ends. So

* a batch does not depend on earlier batches: training resumes at any step;
* a process reads only its own lanes, and the global batch is the same for any
  number of processes that divides the lanes;
* a window of all blocks is a complete shuffle.

Where negatives are wanted, they follow their positive (see `negatives`).

A window is shuffled once, while its blocks are copied into it. Batches are
slices of it, and several batches are cut at a time.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from dlrm_jax.data.checked import Checked
from dlrm_jax.data.negatives import Negatives
from dlrm_jax.data.schema import BLOCK_ROWS, Block, each, join, take
from dlrm_jax.errors import InputError
from dlrm_jax.vocabulary.policy import STOP


@dataclasses.dataclass(frozen=True)
class Reading:
  """The way a source is cut into batches.

  Attributes:
    batch_size: number of examples in a global batch, negatives included.
    lanes: number of parts that are read independently; a multiple of the
      number of processes.
    window: number of blocks of a lane that are shuffled together.
    seed: seed of the shuffle.
    out_of_range: 'stop': an id that its table does not have is an error;
      'unknown': it becomes row 0 and is counted.
    negatives: the examples that are drawn for each one that is read.
  """

  batch_size: int
  lanes: int = 8
  window: int = 16
  seed: int = 0
  out_of_range: str = STOP
  negatives: Negatives = Negatives()  # noqa: RUF009, frozen

  @property
  def read(self) -> int:
    """Number of examples of a global batch that are read, not drawn."""
    return self.batch_size // (self.negatives.count + 1)

  def __post_init__(self) -> None:
    least = self.lanes * (self.negatives.count + 1)
    if self.batch_size < 1 or self.batch_size % least:
      drawn = (
        f' times 1 + the {self.negatives.count} negatives (data.negatives)'
        if self.negatives.count
        else ''
      )
      raise InputError(
        f'batch_size {self.batch_size}: must be a positive multiple of the '
        f'{self.lanes} lanes (data.lanes){drawn}'
      )
    if self.window < 1:
      raise InputError(f'window {self.window}: must be at least one block')


class _Order:
  """The order of the blocks of an epoch, and the position where each ends."""

  def __init__(self, seed: int, examples: int, epoch: int) -> None:
    count = -(-examples // BLOCK_ROWS)
    # For NumPy, this seed equals that of the first window of lane 0. The two
    # permute different things, and unfinished runs depend on the seed.
    self.blocks = np.random.default_rng((seed, epoch)).permutation(count)
    sizes = np.full(count, BLOCK_ROWS, np.int64)
    sizes[-1] = examples - BLOCK_ROWS * (count - 1)
    self.ends = np.cumsum(sizes[self.blocks])


class _Lane:
  """The examples of a lane by position, in an endless sequence of epochs."""

  def __init__(
    self,
    source: Checked,
    reading: Reading,
    lane: int,
    order: Callable[[int], _Order],
  ) -> None:
    self._source, self._reading, self._lane = source, reading, lane
    self._order = order
    self._start = lane * source.examples // reading.lanes
    self._stop = (lane + 1) * source.examples // reading.lanes
    self._held: tuple[tuple[int, int], Block] | None = None

  def read(self, first: int, last: int) -> Block:
    """Examples first ... last - 1 of the lane."""
    size = self._stop - self._start
    length = self._reading.window * BLOCK_ROWS
    parts = []
    while first < last:
      epoch, position = divmod(first, size)
      number, inside = divmod(position, length)
      window = self._window(epoch, number)
      count = min(last - first, len(window.labels) - inside)
      parts.append(take(window, slice(inside, inside + count)))
      first += count
    return join(parts)

  def _window(self, epoch: int, number: int) -> Block:
    key = (epoch, number)
    if self._held is None or self._held[0] != key:
      self._held = None  # Frees its memory for the next window.
      self._held = key, self._load(epoch, number)
    return self._held[1]

  def _load(self, epoch: int, number: int) -> Block:
    """A shuffled window: examples of every block are copied to their places."""
    length = self._reading.window * BLOCK_ROWS
    start = self._start + number * length
    stop = min(start + length, self._stop)
    rng = np.random.default_rng((self._reading.seed, epoch, self._lane, number))
    places = np.empty(stop - start, np.intp)
    places[rng.permutation(stop - start)] = np.arange(stop - start)
    order, window = self._order(epoch), None
    begin = start
    for i in range(
      int(np.searchsorted(order.ends, start, 'right')),
      int(np.searchsorted(order.ends, stop, 'left')) + 1,
    ):
      block = self._source[int(order.blocks[i])]
      end = min(int(order.ends[i]), stop)
      last = len(block.labels) - (int(order.ends[i]) - end)
      part = take(block, slice(last - (end - begin), last))
      window = _like(part, (stop - start,)) if window is None else window
      _put(window, places[begin - start : end - start], part)
      begin = end
    assert window is not None, 'a window has examples'
    return window


def _like(block: Block, shape: tuple[int, ...]) -> Block:
  """An empty block of another shape than the (n,) of this one."""
  return each(block, lambda x: np.empty(shape + x.shape[1:], x.dtype))


def _put(into: Block, where: np.ndarray | tuple, block: Block) -> None:
  for array, x in zip(into, block, strict=True):
    if array is not None:
      array[where] = x


class Shuffled:
  """Endless shuffled batches by number: this process's part of each."""

  def __init__(
    self, source: Checked, reading: Reading, process: int, processes: int
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
    self._reading, self._process = reading, process
    order = functools.lru_cache(2)(
      functools.partial(_Order, reading.seed, source.examples)
    )
    self._lanes = [
      _Lane(source, reading, lane, order)
      for lane in range(process * share, (process + 1) * share)
    ]
    self._size = reading.read // reading.lanes

  def make(self, steps: range) -> Block:
    """Batches of k consecutive numbers, stacked: arrays [k, B, ...]."""
    count, size, lanes = len(steps), self._size, len(self._lanes)
    batches = None
    for k, lane in enumerate(self._lanes):
      read = lane.read(steps.start * size, steps.stop * size)
      batches = (
        _like(read, (count, lanes, size)) if batches is None else batches
      )
      cut = each(read, lambda x: x.reshape(count, size, *x.shape[1:]))
      _put(batches, (slice(None), k), cut)
    assert batches is not None, 'a process has lanes'
    whole = each(
      batches, lambda x: x.reshape(count, lanes * size, *x.shape[3:])
    )
    reading = self._reading
    if not reading.negatives.count:
      return whole
    # The numbers of these examples, counted over all global batches.
    first = np.arange(steps.start, steps.stop, dtype=np.uint64) * np.uint64(
      reading.read
    )
    places = self._process * lanes * size + np.arange(
      lanes * size, dtype=np.uint64
    )
    return reading.negatives.added(whole, reading.seed, first[:, None] + places)
