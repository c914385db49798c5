"""The loader: batches from blocks, prepared ahead in a thread, and checked.

`training_batches` gives shuffled batches without end, `evaluation_batches`
every example once in order; `stream_batches` does the same for blocks that
can be read only once. A training batch is a function of its number (see
`shuffled`). Small batches are made many at a time, so that the cost of calls
and of changes between threads is small.

Grain runs the thread, prefetches and keeps the order. An error in the thread
is raised in place of its batch, and no batch follows it.
"""

from collections.abc import Callable, Iterable, Iterator

import grain
import jax
import numpy as np

from dlrm_jax.batch import NO_GROUP, PAD, Batch, Inputs
from dlrm_jax.data.checked import Checked, Checker
from dlrm_jax.data.rebatch import rebatch
from dlrm_jax.data.schema import (
  BLOCK_ROWS,
  Block,
  Schema,
  Source,
  each,
  join,
  take,
)
from dlrm_jax.data.shuffled import Reading, Shuffled
from dlrm_jax.errors import InputError
from dlrm_jax.vocabulary.policy import STOP, UNKNOWN

_EXAMPLES_AT_ONCE = 8192  # examples of one call, where batches are smaller
_AHEAD = 8  # calls made ahead, to have batches while lanes read their windows


class Batches:
  """An iterator of batches that counts ids out of range.

  Attributes:
    out_of_range: number of ids that were mapped to the unknown row, in the
      batches so far; batches that wait in the thread do not count.
  """

  def __init__(self, made: Iterator[tuple[Batch, int]]) -> None:
    self._made = made
    self.out_of_range = 0

  def __iter__(self) -> 'Batches':
    return self

  def __next__(self) -> Batch:
    batch, out_of_range = next(self._made)
    self.out_of_range += out_of_range
    return batch


class _InOrder:
  """Batches with every example once, in file order; the last one padded."""

  def __init__(
    self, source: Checked, batch_size: int, process: int, processes: int
  ) -> None:
    self._source = source
    self._share = batch_size // processes
    self._batch_size = batch_size
    self._process = process
    self._held: tuple[int, Block] | None = None

  def __len__(self) -> int:
    return -(-self._source.examples // self._batch_size)

  def make(self, steps: range) -> Block:
    """Batches of consecutive numbers: [k, B, ...]."""
    return _stacked([self._one(step) for step in steps])

  def _one(self, step: int) -> Block:
    first = step * self._batch_size + self._process * self._share
    last = min(first + self._share, self._source.examples)
    parts = []
    while first < last:
      number, inside = divmod(first, BLOCK_ROWS)
      stop = min(BLOCK_ROWS, inside + last - first)
      parts.append(take(self._block(number), slice(inside, stop)))
      first += stop - inside
    if not parts:
      parts = [take(self._block(0), slice(0, 0))]
    return _padded(join(parts), self._share)

  def _block(self, number: int) -> Block:
    """Reads a block, and keeps it: the next batches are within it."""
    if self._held is None or self._held[0] != number:
      self._held = number, self._source[number]
    return self._held[1]


def _stacked(blocks: list[Block]) -> Block:
  """Stacks blocks of equal size on a new first axis."""
  return join([each(block, lambda x: x[None]) for block in blocks])


def _padded(block: Block, size: int) -> Block:
  """Pads a block to `size` examples by examples of weight 0 without ids."""
  missing = size - len(block.labels)
  if missing == 0:
    return block._replace(weights=_weights(block))

  def fill(x: np.ndarray, value: int) -> np.ndarray:
    widths = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
    return np.pad(x, widths, constant_values=value)

  id_weights, group = block.id_weights, block.group
  return Block(
    dense=fill(block.dense, 0),
    ids=fill(block.ids, PAD),
    labels=fill(block.labels, 0),
    id_weights=None if id_weights is None else fill(id_weights, 0),
    weights=fill(_weights(block), 0),
    group=None if group is None else fill(group, NO_GROUP),
  )


def _weights(block: Block) -> np.ndarray:
  """Weights of the examples; ones where the block has none."""
  if block.weights is None:
    return np.ones(block.labels.shape[:-1], np.float32)
  return block.weights


def _finished(made: Block, checker: Checker) -> list[tuple[Batch, int]]:
  """Cuts [k, B, ...] into k batches, each with its ids out of range."""
  ids, out_of_range = checker.mend(made.ids)
  weights, id_weights, group = _weights(made), made.id_weights, made.group
  return [
    (
      Batch(
        Inputs(
          made.dense[k],
          ids[k],
          None if id_weights is None else id_weights[k],
          None if group is None else group[k],
        ),
        made.labels[k],
        weights[k],
      ),
      int(out_of_range[k]),
    )
    for k in range(len(ids))
  ]


def _prefetched(
  make: Callable[[range], Block], steps: range, at_once: int, checker: Checker
) -> Iterator[tuple[Batch, int]]:
  """Batches of these numbers in order, prefetched by a thread of Grain."""

  def several(first: int) -> list[tuple[Batch, int]]:
    numbers = range(first, min(first + at_once, steps.stop))
    return _finished(make(numbers), checker)

  firsts = grain.MapDataset.range(steps.start, steps.stop, at_once)
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
  for batches in firsts.map(several).to_iter_dataset(options):
    yield from batches


def batch_shapes(source: Source, size: int) -> Batch:
  """Shapes and dtypes of batches of `size` examples, by one block of them."""
  example = take(source[0], slice(0, 1))
  example = _stacked([example._replace(weights=_weights(example))])
  checker = Checker(source.schema, '', UNKNOWN, ())
  [(batch, _)] = _finished(example, checker)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), batch
  )


def _at_once(batch_size: int, examples: int) -> int:
  """Number of batches of one call: about 8,192 examples, at most an epoch."""
  return max(1, min(_EXAMPLES_AT_ONCE, examples) // batch_size)


def training_batches(
  source: Source,
  reading: Reading,
  first_step: int = 0,
  process: int = 0,
  processes: int = 1,
  name: str = 'data',
  means: tuple[str, ...] = (),
) -> Batches:
  """Shuffled batches for ever, from batch number `first_step` on.

  Args:
    source: the blocks.
    reading: how to cut them.
    first_step: number of the first batch; nothing before it is read.
    process: this process; it gets its part of every global batch.
    processes: how many there are.
    name: of the data set and split, for messages.
    means: features that are pooled by their mean; their weights are checked.
  """
  checker = Checker(source.schema, name, reading.out_of_range, means)
  shuffled = Shuffled(Checked(source, checker), reading, process, processes)
  steps = range(first_step, np.iinfo(np.int32).max)
  at_once = _at_once(reading.batch_size, source.examples)
  return Batches(_prefetched(shuffled.make, steps, at_once, checker))


def _check_shares(batch_size: int, processes: int) -> None:
  if batch_size < 1 or batch_size % processes:
    raise InputError(
      f'evaluation batch size {batch_size}: must be a positive multiple of the '
      f'{processes} processes'
    )


def evaluation_batches(
  source: Source,
  batch_size: int,
  process: int = 0,
  processes: int = 1,
  name: str = 'data',
  out_of_range: str = STOP,
  means: tuple[str, ...] = (),
) -> Batches:
  """Every example once, in order; weight 0 pads the last batch.

  Args:
    source: the blocks.
    batch_size: of the global batch, a multiple of `processes`.
    process: this process; it gets its part of every global batch.
    processes: how many there are.
    name: of the data set and split, for messages.
    out_of_range: as in `Reading`.
    means: features that are pooled by their mean; their weights are checked.
  """
  _check_shares(batch_size, processes)
  checker = Checker(source.schema, name, out_of_range, means)
  checked = Checked(source, checker)
  batches = _InOrder(checked, batch_size, process, processes)
  at_once = _at_once(batch_size, source.examples)
  steps = range(len(batches))
  return Batches(_prefetched(batches.make, steps, at_once, checker))


def stream_batches(
  blocks: Iterable[Block],
  schema: Schema,
  batch_size: int,
  process: int = 0,
  processes: int = 1,
  name: str = 'data',
  out_of_range: str = STOP,
  means: tuple[str, ...] = (),
) -> Batches:
  """Blocks of any size as batches; weight 0 pads the last one.

  Args:
    blocks: of all examples; every process reads them all.
    schema: their columns.
    batch_size: of the global batch, a multiple of `processes`.
    process: this process; it gets its part of every global batch.
    processes: how many there are.
    name: of the data, for messages.
    out_of_range: as in `Reading`.
    means: features that are pooled by their mean; their weights are checked.
  """
  _check_shares(batch_size, processes)
  checker = Checker(schema, name, out_of_range, means)
  share = batch_size // processes
  part = slice(process * share, (process + 1) * share)

  def made() -> Iterator[tuple[Batch, int]]:
    checked = (checker.check(block, n) for n, block in enumerate(blocks))
    for block in rebatch(checked, batch_size):
      batch = _padded(take(block, part), share)
      yield from _finished(_stacked([batch]), checker)

  return Batches(made())
