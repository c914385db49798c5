"""Made-up bags: several ids for each real id, as in MLPerf.

Each row of a table stands for a bag: the row, followed by random rows of the
same table, which are drawn once and equal in every example. Tables are drawn
one after the other from one random stream, that of `np.random.seed(0)` and
`randint`. Source: facebookresearch/dlrm, torchrec_dlrm/multi_hot.py (uniform).

Bags of 40 M rows exceed memory, so they are written to files and read by row.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlrm_jax.errors import InputError
from dlrm_jax.files import replacing
from dlrm_jax.prepare.resources import check_disk
from dlrm_jax.prepare.units import (
  Stage,
  discard_broken,
  read_mark,
  sizes_of,
  write_mark,
)
from dlrm_jax.vocabulary.coder import Coder

_CHUNK = 1 << 22
"""Numbers drawn at a time; any value gives the same stream."""

MAX_HOTNESS = 1 << 15


class Draw(NamedTuple):
  """A unit: the bags of all tables, which share one random stream.

  Attributes:
    paths: a file for each table, all in one folder.
    rows: number of rows of each table.
    others: number of drawn ids in a bag of each table.
    output: JSON file beside them, with their sizes.
  """

  paths: tuple[Path, ...]
  rows: tuple[int, ...]
  others: tuple[int, ...]
  output: Path

  def sound(self) -> bool:
    """Whether all files are whole."""
    return read_mark(self.output) is not None


def draw_bags(unit: Draw) -> None:
  """Writes an array i32[rows, others] for each table."""
  stream = np.random.RandomState(0)
  for path, rows, others in zip(*unit[:3], strict=True):
    left = rows * others
    with replacing(path, synced=False) as work, work.open('wb') as file:
      while left:
        # int64 is the default of `randint`; other types give other streams.
        drawn = stream.randint(0, rows, min(left, _CHUNK), np.int64)
        drawn.astype(np.int32).tofile(file)
        left -= len(drawn)
  write_mark(unit.output, {'files': sizes_of(unit.paths)})


def with_bags(
  stage: Stage, work: Path, coders: Sequence[Coder]
) -> tuple[Coder, ...]:
  """Draws the bags of expanded columns.

  Args:
    stage: runs units.
    work: the work folder.
    coders: coders of all columns, in order.

  Returns:
    The coders, those of expanded columns with the files of their bags.

  Raises:
    InputError: the disk is too small for the bags.
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
  if discard_broken([unit]):
    check_disk(work, sum(4 * c.rows * (c.hotness - 1) for c in expanded))
  stage('draw bags', draw_bags, [unit])
  return tuple(
    dataclasses.replace(coder, bags=folder / f'{coder.column.name}.i32')
    if coder.column.expand
    else coder
    for coder in coders
  )


def numbers_by_feature(
  flag: str, text: str | None, count: int, most: int
) -> tuple[int, ...]:
  """Reads an option such as '3,2,1' -> (3, 2, 1); None -> ().

  Args:
    flag: name of the option, for messages.
    text: its value.
    count: number of sparse features.
    most: largest number that is allowed.

  Raises:
    InputError: there are not `count` numbers, or one is not 1 ... most.
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


def expand(drawn: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Rows -> their bags, i32[n, H].

  Args:
    drawn: the table's drawn ids, i32[R, H - 1].
    rows: first ids of the bags, i32[n].
  """
  bags = np.empty((len(rows), 1 + drawn.shape[1]), np.int32)
  bags[:, 0] = rows
  bags[:, 1:] = drawn[rows]
  return bags
