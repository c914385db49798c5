"""Regroups examples into blocks of another size."""

from collections.abc import Iterable, Iterator

from dlrm_jax.data.schema import BLOCK_ROWS, Block, join, take


def rebatch(blocks: Iterable[Block], size: int = BLOCK_ROWS) -> Iterator[Block]:
  """Regroups examples, in order, into blocks of `size`, the last smaller."""
  held: list[Block] = []
  rows = 0
  for block in blocks:
    held.append(block)
    rows += len(block.labels)
    if rows < size:
      continue
    joined = join(held)
    whole = rows - rows % size
    for start in range(0, whole, size):
      yield take(joined, slice(start, start + size))
    held = [take(joined, slice(whole, rows))]
    rows -= whole
  if rows:
    yield join(held)
