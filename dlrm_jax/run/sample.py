"""Examples of some data, evenly spread over it and held in memory."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.data.schema import Block, join, take
from dlrm_jax.errors import InputError
from dlrm_jax.machine import free_memory
from dlrm_jax.text import human


class Sample(NamedTuple):
  """Examples of some data.

  Attributes:
    examples: the examples that were taken, in their order.
    of: number of examples of the data that have a weight above 0 and a label.
  """

  examples: Block
  of: int


def take_sample(batches: Iterable[Batch], most: int) -> Sample | None:
  """Takes at most `most` examples, evenly spread over all batches.

  Examples of weight 0 or without any label are not taken. The choice depends
  on the examples alone, not on how they are cut into batches.

  Args:
    batches: all examples of the data, whose number need not be known.
    most: largest number of examples to take.

  Returns:
    The sample; None if there is no example to take.

  Raises:
    InputError: the examples do not fit into the memory.
  """
  # Those of numbers 0, stride, 2 stride ... are held, at most 2 `most`.
  held: list[Block] = []
  seen, stride, count = 0, 1, 0
  for batch in batches:
    block = _counted(batch)
    held.append(take(block, slice(-seen % stride, None, stride)))
    seen += len(block.labels)
    count += len(held[-1].labels)
    while count > 2 * most:
      held = [take(join(held), slice(None, None, 2))]
      stride, count = 2 * stride, len(held[0].labels)
    _check_memory(held, count, most)
  if not count:
    return None
  examples = join(held)
  if count > most:
    examples = take(examples, np.arange(most) * count // most)
  return Sample(examples, seen)


def _counted(batch: Batch) -> Block:
  """The examples of a batch that count for any label."""
  inputs, labels = batch.inputs, np.asarray(batch.labels)
  weights = np.asarray(batch.weights)
  id_weights = inputs.id_weights
  block = Block(
    np.asarray(inputs.dense),
    np.asarray(inputs.ids),
    labels,
    None if id_weights is None else np.asarray(id_weights),
    weights,
  )
  return take(block, (weights > 0) & ~np.isnan(labels).all(1))


def _check_memory(held: list[Block], count: int, most: int) -> None:
  """Raises an error if joining the blocks may take all of the memory."""
  size = sum(x.nbytes for block in held for x in block if x is not None)
  free = free_memory()
  if size > free:
    raise InputError(
      f'--examples={most}: the first {count:,} of them take {human(size)}, and '
      f'as much again is needed to join them, but {human(free)} of memory are '
      f'free; lower it'
    )
