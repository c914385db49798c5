"""How the rows of a split get from its parts to its shards, in few reads.

A part is a file of rows that are sorted by what they are dealt to, a pile; so
a pile of it is one read. Where there are many shards, a pile is for a bundle
of them: of each bundle, the piles of a group of parts are put together in a
chunk, and dealt once more, to the shards of the bundle. So a part is read
`MOST_PILES` times at most, whatever the number of shards. Without shuffling,
shards are filled one after the other, with consecutive rows.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlrm_jax.files import replacing
from dlrm_jax.prepare.stages.deal import Seed, Use, deal
from dlrm_jax.prepare.units import size_is

MOST_PILES = 256
"""That a part is dealt to. Of more, reads would be short: under 200 kB."""

BUNDLE_SHARDS = 64
"""Shards of a bundle, where they are bundled; more, if bundles are too many."""


class Pile(NamedTuple):
  """What consecutive parts have for one pile.

  Attributes:
    folder: has the parts.
    bounds: file of i32[piles + 1, parts]: rows of each part before each pile.
    width: words a row, W.
    number: of the pile.
    first: the first part.
    last: the part behind the last one.
  """

  folder: Path
  bounds: Path
  width: int
  number: int
  first: int
  last: int

  def read(self) -> np.ndarray:
    """The rows i32[n, W], part after part."""
    bounds = np.load(self.bounds, mmap_mode='r')
    near = bounds[self.number : self.number + 2, self.first : self.last]
    starts = near[0].astype(np.int64)
    counts = near[1] - starts
    rows = np.empty((counts.sum(), self.width), np.int32)
    end = 0
    for part in np.flatnonzero(counts):
      path = path_of(self.folder, self.first + int(part))
      count = int(counts[part])
      rows[end : end + count] = read_rows(
        path, self.width, int(starts[part]), count
      )
      end += count
    return rows


class Stretch(NamedTuple):
  """Consecutive rows of parts in order.

  Attributes:
    folder: has the parts.
    width: words a row, W.
    part: the first part.
    start: its first row that is meant.
    rows: how many, over the parts that follow.
  """

  folder: Path
  width: int
  part: int
  start: int
  rows: int

  def read(self) -> np.ndarray:
    """The rows i32[n, W]."""
    found, left = [], self.rows
    part, start = self.part, self.start
    while left:
      path = path_of(self.folder, part)
      found.append(read_rows(path, self.width, start, left))
      left -= len(found[-1])
      part, start = part + 1, 0
    return np.concatenate(found)


def path_of(folder: Path, part: int) -> Path:
  """The file of a part."""
  return folder / f'{part:06}.i32'


def read_rows(path: Path, width: int, start: int, most: int) -> np.ndarray:
  """Rows of a part from `start`, at most so many: i32[n, W]."""
  words = np.fromfile(path, np.int32, most * width, offset=start * width * 4)
  return words.reshape(-1, width)


class Chunk(NamedTuple):
  """A unit: rows of a bundle of shards, of a group of parts.

  Attributes:
    source: where they are.
    bounds: file of i32[shards + 1, chunks], of the bundle.
    number: of the chunk in its bundle.
    seed: of which row is for which shard.
    rows: how many.
    output: file to make, a part of the bundle, sorted by shard.
  """

  source: Pile
  bounds: Path
  number: int
  seed: Seed
  rows: int
  output: Path

  def sound(self) -> bool:
    """Whether it has all its rows."""
    return size_is(self.output, self.rows * self.source.width * 4)


def make_chunk(unit: Chunk) -> None:
  """Reads the rows, sorts them by shard, writes them."""
  rows = by_pile(unit.source.read(), unit.bounds, unit.number, unit.seed)
  with replacing(unit.output) as work:
    rows.tofile(work)


def by_pile(
  rows: np.ndarray, bounds: Path, part: int, seed: Seed
) -> np.ndarray:
  """Draws which rows go to which pile, and sorts them by it.

  Args:
    rows: of a part, i32[n, W].
    bounds: file of i32[piles + 1, parts].
    part: its number.
    seed: of the draw.
  """
  counts = np.diff(np.load(bounds, mmap_mode='r')[:, part])
  kind = np.min_scalar_type(len(counts) - 1)
  pile = np.repeat(np.arange(len(counts), dtype=kind), counts)
  np.random.default_rng(seed).shuffle(pile)
  return rows[np.argsort(pile, kind='stable')]


class Plan(NamedTuple):
  """How the rows of a split get from its parts to its shards.

  Attributes:
    folder: for the parts.
    bounds: file that says how parts are dealt; None: they stay in order.
    chunks: units between parts and shards, if shards are bundled.
    sources: of each shard, where its rows are.
  """

  folder: Path
  bounds: Path | None
  chunks: Sequence[Chunk]
  sources: Sequence[Pile | Stretch]


def plan(
  work: Path,
  split: str,
  parts: Sequence[int],
  shards: Sequence[int],
  width: int,
  key: Seed | None,
) -> Plan:
  """Deals rows, and says who reads what; leaves files of bounds.

  Args:
    work: folder of the work.
    split: its name.
    parts: rows of each part, in order.
    shards: rows that each shard takes, as many in all.
    width: words a row, W.
    key: seed of the shuffle and number of the split; None: in order.
  """
  folder = work / 'parts' / split
  folder.mkdir(parents=True, exist_ok=True)
  if key is None:
    return Plan(folder, None, (), _stretches(folder, width, parts, shards))
  size = _bundle_size(len(shards))
  firsts = range(0, len(shards), size)
  piles = np.add.reduceat(shards, firsts)
  dealt = deal(parts, piles, (Use.PARTS, *key))
  bounds = work / 'parts' / f'{split}.npy'
  _save_bounds(bounds, dealt)

  def pile(number: int, first: int = 0, last: int = len(parts)) -> Pile:
    return Pile(folder, bounds, width, number, first, last)

  if size == 1:
    return Plan(folder, bounds, (), [pile(i) for i in range(len(shards))])
  groups = _groups(parts, size)
  chunks: list[Chunk] = []
  sources: list[Pile] = []
  for bundle, first in enumerate(firsts):
    there = work / 'bundles' / split / f'{bundle:05}'
    there.mkdir(parents=True, exist_ok=True)
    rows = np.add.reduceat(dealt[:, bundle], [g.start for g in groups])
    its = shards[first : first + size]
    seed = (*key, bundle)
    inner = there.with_suffix('.npy')
    _save_bounds(inner, deal(rows, its, (Use.BUNDLE, *seed)))
    chunks += [
      Chunk(
        source=pile(bundle, group.start, group.stop),
        bounds=inner,
        number=number,
        seed=(Use.CHUNK, *seed, number),
        rows=int(rows[number]),
        output=path_of(there, number),
      )
      for number, group in enumerate(groups)
    ]
    sources += [
      Pile(there, inner, width, number, 0, len(groups))
      for number in range(len(its))
    ]
  return Plan(folder, bounds, chunks, sources)


def _bundle_size(shards: int) -> int:
  """Shards that a part's rows are dealt to together."""
  if shards <= MOST_PILES:
    return 1
  return max(BUNDLE_SHARDS, -(-shards // MOST_PILES))


def _groups(parts: Sequence[int], count: int) -> list[range]:
  """Consecutive parts in at most so many groups, of about as many rows."""
  ends = np.cumsum(parts)
  group = (ends - parts) * count // ends[-1]
  cuts = np.flatnonzero(np.diff(group, prepend=-1))
  return [
    range(int(a), int(b)) for a, b in itertools.pairwise([*cuts, len(group)])
  ]


def _stretches(
  folder: Path, width: int, parts: Sequence[int], shards: Sequence[int]
) -> list[Stretch]:
  """Shards that are filled one after the other."""
  ends = np.cumsum(parts)
  starts = np.cumsum([0, *shards[:-1]])
  first = np.searchsorted(ends, starts, 'right')
  return [
    Stretch(folder, width, int(part), int(start - ends[part] + parts[part]), n)
    for part, start, n in zip(first, starts, map(int, shards), strict=True)
  ]


def _save_bounds(path: Path, dealt: np.ndarray) -> None:
  """Keeps i32[parts, piles] as sums over the piles before, by pile."""
  bounds = np.zeros((dealt.shape[1] + 1, dealt.shape[0]), np.int32)
  np.cumsum(dealt.T, axis=0, out=bounds[1:])
  with replacing(path, synced=False) as work, work.open('wb') as file:
    np.save(file, bounds)
