"""The same examples in blocks of another size."""

from collections.abc import Iterable, Iterator

import numpy as np

from dlrm_jax.data.schema import BLOCK_ROWS, Block


def _join(blocks: list[Block]) -> Block:
  if len(blocks) == 1:
    return blocks[0]
  dense, ids, labels, weights = zip(*blocks, strict=True)
  return Block(
    np.concatenate(dense),
    np.concatenate(ids),
    np.concatenate(labels),
    None if weights[0] is None else np.concatenate(weights),
  )


def _slice(block: Block, start: int, stop: int) -> Block:
  rows = slice(start, stop)
  weights = None if block.id_weights is None else block.id_weights[rows]
  return Block(block.dense[rows], block.ids[rows], block.labels[rows], weights)


def rebatch(blocks: Iterable[Block], size: int = BLOCK_ROWS) -> Iterator[Block]:
  """The same examples in the same order, `size` a block but for the last."""
  held: list[Block] = []
  rows = 0
  for block in blocks:
    held.append(block)
    rows += len(block.labels)
    if rows < size:
      continue
    joined = _join(held)
    whole = rows - rows % size
    for start in range(0, whole, size):
      yield _slice(joined, start, start + size)
    held = [_slice(joined, whole, rows)]
    rows -= whole
  if rows:
    yield _join(held)
