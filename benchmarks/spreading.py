"""What it takes to bring the rows of a very large log to their shards.

python -m benchmarks.spreading

Plans the last stages of `prepare` for the 1TB log, and for it with MLPerf's
bags, and counts reads, additions of numbers of rows, and bytes of pickled
units; beside them what they would be if each shard read all parts and added
up how many rows go to the shards before it. The first plan is also done, with
parts and shards of few rows, which counts the reads that happen.
"""

import collections
import pickle
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from dlrm_jax.data.records import Fields
from dlrm_jax.prepare.stages import spread
from dlrm_jax.prepare.stages.deal import Purpose
from dlrm_jax.prepare.stages.encode import Gather, gather

_PART_ROWS = 600
"""Of a part that is really made."""

_SIZES = {
  '1TB, one id a feature': (14_000, 4_486, Fields(13, 26)),
  "1TB, MLPerf's bags": (28_000, 25_500, Fields(13, 214)),
}


def _before(parts: int, shards: int) -> dict[str, float]:
  paths = tuple(Path(f'/data/set/mixed/{i:06}.i32') for i in range(parts))
  return {
    'reads': parts * shards,
    'additions': parts * shards * (shards - 1) / 2,
    'pickled bytes': len(pickle.dumps(paths)) * shards,
  }


def _after(plan: spread.Transfer, fields: Fields) -> dict[str, float]:
  units = [
    Gather(
      source, fields, (Purpose.SHARD, 0, 0, i), (0, 0, 0), 9, Path('/data/i')
    )
    for i, source in enumerate(plan.sources)
  ]
  piles = [chunk.source for chunk in plan.chunks]
  piles += [s for s in plan.sources if isinstance(s, spread.Pile)]
  reads = sum(pile.last - pile.first for pile in piles)
  bounds = {pile.bounds for pile in piles}
  sums = sum(np.load(path, mmap_mode='r').size for path in bounds)
  pickled = [(spread.make_chunk, unit) for unit in plan.chunks]
  pickled += [(gather, unit) for unit in units]
  return {
    'reads': reads,
    # Sums, the counts of each read, and those of each part that is sorted.
    'additions': 2 * sums + reads,
    'pickled bytes': sum(len(pickle.dumps(unit)) for unit in pickled),
  }


def _really_read(plan: spread.Transfer, parts: int) -> float:
  """Makes parts of one word a row, chunks, and reads shards; reads."""
  found: collections.Counter[Path] = collections.Counter()
  read = spread.read_rows

  def counted(path: Path, width: int, start: int, most: int) -> np.ndarray:
    found[path] += 1
    return read(path, width, start, most)

  spread.read_rows = counted
  assert plan.bounds is not None
  try:
    for part in range(parts):
      rows = np.full((_PART_ROWS, 1), part, np.int32)
      seed = (Purpose.PART, 0, 0, part)
      rows = spread.by_pile(rows, plan.bounds, part, seed)
      rows.tofile(spread.path_of(plan.folder, part))
    for chunk in plan.chunks:
      spread.make_chunk(chunk)
    rows = sum(len(source.read()) for source in plan.sources)
  finally:
    spread.read_rows = read
  assert rows == parts * _PART_ROWS
  return sum(found.values())


def main() -> None:
  """Prints the table."""
  rows: list[dict[str, Any]] = []
  for name, (parts, shards, fields) in _SIZES.items():
    total = parts * _PART_ROWS
    sizes = np.diff(np.arange(shards + 1) * total // shards)
    with tempfile.TemporaryDirectory() as folder:
      start = time.perf_counter()
      plan = spread.plan_transfer(
        Path(folder), 'train', [_PART_ROWS] * parts, sizes.tolist(), 1, (0, 0)
      )
      seconds = time.perf_counter() - start
      made = _after(plan, fields)
      done = _really_read(plan, parts) if not rows else None
    for what, was in _before(parts, shards).items():
      note = f'{done:,.0f} when done' if done and what == 'reads' else ''
      rows.append(
        {
          'log': name,
          'what': what,
          'each shard from all parts': f'{was:,.0f}',
          'now': f'{made[what]:,.0f}',
          'note': note,
        }
      )
    rows[-1]['note'] = f'planned in {seconds:.1f} s'
  machine.show('spreading', rows)


if __name__ == '__main__':
  main()
