"""Made-up bags: MLPerf's way to have several ids of one that is real.

Each row of a table stands for a bag: the row itself, then rows of the same
table that are drawn once, alike for every example. All tables are drawn one
after the other from one stream, that of `np.random.seed(0)` and `randint`.
Source: facebookresearch/dlrm, torchrec_dlrm/multi_hot.py (uniform).

Bags of 40 M rows do not fit in memory: they are drawn into files, of which
the rows at hand are read.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlrm_jax.errors import InputError
from dlrm_jax.files import replacing
from dlrm_jax.prepare.budget import check_disk
from dlrm_jax.prepare.units import Stage, marked, mend, sizes_of, write_mark
from dlrm_jax.vocabulary.coder import Coder

_CHUNK = 1 << 22
"""Numbers drawn at a time; the stream is the same for any."""

MAX_HOTNESS = 1 << 15


class Draw(NamedTuple):
  """A unit: the bags of all tables, as they are one stream.

  Attributes:
    paths: a file for each table, all in one folder.
    rows: of each table.
    others: ids of a bag behind the first, for each table.
    output: JSON file beside them, of their bytes.
  """

  paths: tuple[Path, ...]
  rows: tuple[int, ...]
  others: tuple[int, ...]
  output: Path

  def sound(self) -> bool:
    """Whether all files are there."""
    return marked(self.output) is not None


def draw(unit: Draw) -> None:
  """Writes i32[rows, others] for each table."""
  stream = np.random.RandomState(0)
  for path, rows, others in zip(*unit[:3], strict=True):
    left = rows * others
    with replacing(path, synced=False) as work, work.open('wb') as file:
      while left:
        # int64, as `randint` draws unless told: other widths, other streams.
        drawn = stream.randint(0, rows, min(left, _CHUNK), np.int64)
        drawn.astype(np.int32).tofile(file)
        left -= len(drawn)
  write_mark(unit.output, {'files': sizes_of(unit.paths)})


def with_bags(
  stage: Stage, work: Path, coders: Sequence[Coder]
) -> tuple[Coder, ...]:
  """Draws bags; the coders with their files.

  Args:
    stage: runs units.
    work: folder of the work.
    coders: of all columns, in order.

  Raises:
    InputError: the disk has no room for them.
  """
  expanded = [coder for coder in coders if coder.column.expand]
  if not expanded:
    return tuple(coders)
  folder = work / 'bags'
  folder.mkdir(exist_ok=True)
  unit = Draw(
    tuple(folder / f'{coder.column.name}.i32' for coder in expanded),
    tuple(coder.rows for coder in expanded),
    tuple(coder.hotness - 1 for coder in expanded),
    folder / 'drawn.json',
  )
  if mend([unit]):
    check_disk(work, sum(4 * c.rows * (c.hotness - 1) for c in expanded))
  stage('draw bags', draw, [unit])
  return tuple(
    dataclasses.replace(coder, bags=folder / f'{coder.column.name}.i32')
    if coder.column.expand
    else coder
    for coder in coders
  )


def numbers(
  flag: str, text: str | None, count: int, most: int
) -> tuple[int, ...]:
  """'3,2,1' -> (3, 2, 1), one for each of `count` features; None -> ().

  Raises:
    InputError: there are more or fewer, or one is not 1 ... most.
  """
  if text is None:
    return ()
  words = text.split(',')
  if len(words) != count:
    raise InputError(
      f'{flag}: {len(words)} numbers; expected {count}, one a sparse feature'
    )
  for number, word in enumerate(words, 1):
    if not (word.isascii() and word.isdigit() and 1 <= int(word) <= most):
      raise InputError(
        f'{flag}: number {number} is {word!r}; expected 1 ... {most}'
      )
  return tuple(map(int, words))


def expand(
  drawn: Path, table: int, hotness: int, rows: np.ndarray
) -> np.ndarray:
  """Rows -> their bags, i32[n, hotness].

  Args:
    drawn: file of the table's bags.
    table: rows that the table has.
    hotness: of the bags.
    rows: i32[n].
  """
  bags = np.empty((len(rows), hotness), np.int32)
  bags[:, 0] = rows
  others = np.memmap(drawn, np.int32, 'r', shape=(table, hotness - 1))
  bags[:, 1:] = others[rows]
  return bags
