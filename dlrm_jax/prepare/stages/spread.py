"""Moves the rows of a split from its parts to its shards, in few reads.

A part is a file of encoded rows. Its rows are dealt to piles and sorted by
pile, so that one read gets all rows of a pile. With few shards, each shard is
a pile. With many shards, a pile is for a bundle of shards: the piles of a
group of parts are joined to a chunk, whose rows are dealt to the shards of the
bundle. So a part is read at most `MOST_PILES` times, whatever the number of
shards. Without shuffling, shards are filled with consecutive rows.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlrm_jax.files import replacing
from dlrm_jax.prepare.stages.deal import Purpose, Seed, deal
from dlrm_jax.prepare.units import size_is

MOST_PILES = 256
"""Maximum number of piles; with more, reads would be shorter than 200 kB."""

BUNDLE_SHARDS = 64
"""Shards of a bundle; more if there were more than `MOST_PILES` bundles."""


class Pile(NamedTuple):
  """The rows of consecutive parts that are dealt to one pile.

  Attributes:
    folder: folder of the parts.
    bounds: file of i32[piles + 1, parts]: rows of each part before each pile.
    width: number of words in a row, W.
    number: number of the pile.
    first: number of the first part.
    last: number of the part after the last one.
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
  """Consecutive rows of consecutive parts.

  Attributes:
    folder: folder of the parts.
    width: number of words in a row, W.
    part: number of the first part.
    start: number of the first row in that part.
    rows: number of rows, which may continue in the next parts.
  """

  folder: Path
  width: int
  part: int
  start: int
  rows: int

  def read(self) -> np.ndarray:
    """The rows i32[n, W]."""
    rows, left = [], self.rows
    part, start = self.part, self.start
    while left:
      path = path_of(self.folder, part)
      rows.append(read_rows(path, self.width, start, left))
      left -= len(rows[-1])
      part, start = part + 1, 0
    return np.concatenate(rows)


def path_of(folder: Path, part: int) -> Path:
  """Path of a part."""
  return folder / f'{part:06}.i32'


def read_rows(path: Path, width: int, start: int, most: int) -> np.ndarray:
  """At most `most` rows of a part, from row `start` on: i32[n, W]."""
  words = np.fromfile(path, np.int32, most * width, offset=start * width * 4)
  return words.reshape(-1, width)


class Chunk(NamedTuple):
  """A unit: the rows of a group of parts for a bundle of shards.

  Attributes:
    source: the rows in the parts.
    bounds: file of i32[shards + 1, chunks] of the bundle: rows of each chunk
      before each shard.
    number: number of the chunk in its bundle.
    seed: seed of the draw of rows for the shards.
    rows: number of rows.
    output: file to write, with rows sorted by shard.
  """

  source: Pile
  bounds: Path
  number: int
  seed: Seed
  rows: int
  output: Path

  def sound(self) -> bool:
    """Whether the file has all rows."""
    return size_is(self.output, self.rows * self.source.width * 4)


def make_chunk(unit: Chunk) -> None:
  """Reads the rows of a chunk, sorts them by shard, and writes them."""
  rows = by_pile(unit.source.read(), unit.bounds, unit.number, unit.seed)
  with replacing(unit.output) as work:
    rows.tofile(work)


def by_pile(
  rows: np.ndarray, bounds: Path, part: int, seed: Seed
) -> np.ndarray:
  """Deals the rows of a part to piles, and sorts them by pile.

  Args:
    rows: rows of the part, i32[n, W].
    bounds: file of i32[piles + 1, parts]: rows of each part before each pile.
    part: number of the part.
    seed: seed of the draw.
  """
  counts = np.diff(np.load(bounds, mmap_mode='r')[:, part])
  kind = np.min_scalar_type(len(counts) - 1)
  pile = np.repeat(np.arange(len(counts), dtype=kind), counts)
  np.random.default_rng(seed).shuffle(pile)
  return rows[np.argsort(pile, kind='stable')]


class Transfer(NamedTuple):
  """The way of a split's rows from its parts to its shards.

  Attributes:
    folder: folder for the parts.
    bounds: file of i32[piles + 1, parts]: rows of each part before each pile;
      None: rows stay in order.
    chunks: units between parts and shards, if shards are bundled.
    sources: the rows of each shard, in the parts or the chunks.
  """

  folder: Path
  bounds: Path | None
  chunks: Sequence[Chunk]
  sources: Sequence[Pile | Stretch]


def plan_transfer(
  work: Path,
  split: str,
  parts: Sequence[int],
  shards: Sequence[int],
  width: int,
  key: Seed | None,
) -> Transfer:
  """Deals the rows of a split, and writes the files of bounds.

  Args:
    work: the work folder.
    split: name of the split.
    parts: number of rows of each part, in order.
    shards: number of rows of each shard; the sums of both are equal.
    width: number of words in a row, W.
    key: seed of the shuffle and number of the split; None: rows stay in order.
  """
  folder = work / 'parts' / split
  folder.mkdir(parents=True, exist_ok=True)
  if key is None:
    return Transfer(folder, None, (), _stretches(folder, width, parts, shards))
  size = _bundle_size(len(shards))
  firsts = range(0, len(shards), size)
  piles = np.add.reduceat(shards, firsts)
  dealt = deal(parts, piles, (Purpose.PARTS, *key))
  bounds = work / 'parts' / f'{split}.npy'
  _save_bounds(bounds, dealt)

  def pile(number: int, first: int = 0, last: int = len(parts)) -> Pile:
    return Pile(folder, bounds, width, number, first, last)

  if size == 1:
    return Transfer(folder, bounds, (), [pile(i) for i in range(len(shards))])
  groups = _groups(parts, size)
  chunks: list[Chunk] = []
  sources: list[Pile] = []
  for bundle, first in enumerate(firsts):
    inside = work / 'bundles' / split / f'{bundle:05}'
    inside.mkdir(parents=True, exist_ok=True)
    rows = np.add.reduceat(dealt[:, bundle], [g.start for g in groups])
    bundled = shards[first : first + size]
    seed = (*key, bundle)
    inner = inside.with_suffix('.npy')
    _save_bounds(inner, deal(rows, bundled, (Purpose.BUNDLE, *seed)))
    chunks += [
      Chunk(
        source=pile(bundle, group.start, group.stop),
        bounds=inner,
        number=number,
        seed=(Purpose.CHUNK, *seed, number),
        rows=int(rows[number]),
        output=path_of(inside, number),
      )
      for number, group in enumerate(groups)
    ]
    sources += [
      Pile(inside, inner, width, number, 0, len(groups))
      for number in range(len(bundled))
    ]
  return Transfer(folder, bounds, chunks, sources)


def _bundle_size(shards: int) -> int:
  """Number of shards in a bundle; 1: shards are not bundled."""
  if shards <= MOST_PILES:
    return 1
  return max(BUNDLE_SHARDS, -(-shards // MOST_PILES))


def _groups(parts: Sequence[int], count: int) -> list[range]:
  """Cuts parts into at most `count` groups of about equal numbers of rows."""
  ends = np.cumsum(parts)
  group = (ends - parts) * count // ends[-1]
  cuts = np.flatnonzero(np.diff(group, prepend=-1))
  return [
    range(int(a), int(b)) for a, b in itertools.pairwise([*cuts, len(group)])
  ]


def _stretches(
  folder: Path, width: int, parts: Sequence[int], shards: Sequence[int]
) -> list[Stretch]:
  """The rows of shards that are filled one after the other."""
  ends = np.cumsum(parts)
  starts = np.cumsum([0, *shards[:-1]])
  first = np.searchsorted(ends, starts, 'right')
  return [
    Stretch(folder, width, int(part), int(start - ends[part] + parts[part]), n)
    for part, start, n in zip(first, starts, map(int, shards), strict=True)
  ]


def _save_bounds(path: Path, dealt: np.ndarray) -> None:
  """Saves numbers of rows, i32[parts, piles], as sums over earlier piles."""
  bounds = np.zeros((dealt.shape[1] + 1, dealt.shape[0]), np.int32)
  np.cumsum(dealt.T, axis=0, out=bounds[1:])
  with replacing(path, synced=False) as work, work.open('wb') as file:
    np.save(file, bounds)
