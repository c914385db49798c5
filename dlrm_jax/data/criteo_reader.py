"""Raw Criteo click logs as `prepare` reads them: a `Reader`.

Plain files are cut at bytes: a piece owns the lines that begin in it. A gzip
file can only be read from its beginning, so it is one piece.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import polars as pl

from dlrm_jax.data.bad_rows import BadRows, Fault
from dlrm_jax.data.criteo_files import (
  DamagedError,
  check_readable,
  chunks,
  head_lines,
  is_gzip,
  line_start,
  lines_before,
)
from dlrm_jax.data.criteo_parse import parse, sift
from dlrm_jax.data.criteo_rows import DENSE, SPARSE
from dlrm_jax.data.raw import (
  FRAME_ROWS,
  PIECE_BYTES,
  Columns,
  Dense,
  Piece,
  Sparse,
)


@dataclasses.dataclass(frozen=True)
class CriteoReader:
  """Kaggle's train.txt, the Terabyte's day_*.gz, and what looks like them.

  Attributes:
    transform: of the dense features, a word of `Dense`.
    hash_rows: rows a sparse feature to hash into; 0: vocabularies.
    multi_hot: ids of the bag that each id becomes, of every sparse feature;
      empty: ids stay as they are.
    num_embeddings: rows of every table, modulo which ids are taken; empty:
      those of the vocabularies.
  """

  transform: str = 'log1p'
  hash_rows: int = 0
  multi_hot: tuple[int, ...] = ()
  num_embeddings: tuple[int, ...] = ()

  @property
  def columns(self) -> Columns:
    """13 dense and 26 sparse features."""
    ids = 'hashed' if self.hash_rows else 'vocabulary'
    hotness = self.multi_hot or (1,) * len(SPARSE)
    tables = self.num_embeddings or (0,) * len(SPARSE)
    return Columns(
      tuple(Dense(name, self.transform) for name in DENSE),
      tuple(
        Sparse(name, ids, self.hash_rows, h, modulo=rows, expand=h > 1)
        for name, h, rows in zip(SPARSE, hotness, tables, strict=True)
      ),
    )

  def describe(self) -> Mapping[str, Any]:
    """The format, as JSON can hold it."""
    return {'format': 'criteo', **dataclasses.asdict(self)}

  def pieces(self, path: str) -> list[Piece]:
    """Cuts a file, in order, without reading it through.

    Raises:
      InputError: the file is missing, empty, or may not be read.
    """
    size = check_readable(path)
    step = size if is_gzip(path) else PIECE_BYTES
    starts = range(0, size, step)
    return [Piece(path, start, min(start + step, size)) for start in starts]

  def about(self, path: str) -> int:
    """How many rows a file has, estimated from its head and its size."""
    size = check_readable(path)
    head, lines = head_lines(path)
    return max(1, size * lines // head)

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The good rows of a piece in their order, in frames.

    Args:
      piece: what to read.
      bad: what to do with bad rows.
      digest: takes the lines of the piece in order; of a gzip file, the bytes
        on disk.

    Raises:
      InputError: a bad row or a damaged file, unless `bad` skips; a line too
        long to be one.
    """
    line = _Line(piece)
    try:
      for chunk in chunks(*piece, digest):
        frame, faults = parse(chunk), []
        if frame is None:
          frame, faults = sift(chunk)
        for number, found in faults:
          bad.add(piece.path, line.number(number), found)
        line.passed += frame.height + len(faults)
        yield from frame.iter_slices(FRAME_ROWS)
    except DamagedError as damage:
      expected = 'a whole file; copy it again'
      found = Fault('damaged gzip', None, str(damage), expected)
      bad.add(piece.path, line.number(0), found)


class _Line:
  """Counts lines from the file's first, which is looked at when asked only.

  Attributes:
    passed: lines of the piece before those at hand.
  """

  def __init__(self, piece: Piece) -> None:
    self.passed = 0
    self._piece = piece
    self._before: int | None = None

  def number(self, offset: int) -> int:
    """Of a line at hand, from 1."""
    if self._before is None:
      path, start, _ = self._piece
      self._before = lines_before(path, line_start(path, start)) if start else 0
    return self._before + self.passed + offset + 1
