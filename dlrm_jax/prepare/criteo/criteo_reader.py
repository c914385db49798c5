"""Raw Criteo click logs as `prepare` reads them: a `Reader`.

Plain files are cut at bytes: a piece owns the lines that begin in it. A
packed file can only be read from its beginning, so it is one piece.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import polars as pl

from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.criteo.criteo_rows import DENSE, SPARSE
from dlrm_jax.prepare.criteo.text import parse, sift
from dlrm_jax.prepare.readers import lines as raw_text
from dlrm_jax.prepare.readers.lines import Lines
from dlrm_jax.prepare.readers.reader import FRAME_ROWS, Piece, kept
from dlrm_jax.vocabulary.columns import Columns, Dense, Sparse

_EXPECTED = 'a Criteo click log'


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

  def to_json(self) -> Mapping[str, Any]:
    """The format, as JSON can hold it."""
    return {'format': 'criteo', **dataclasses.asdict(self)}

  def pieces(self, path: str) -> list[Piece]:
    """Cuts a file, in order, without reading it through.

    Raises:
      InputError: the file is missing, empty, or may not be read.
    """
    return raw_text.cut(path, _EXPECTED)

  def about(self, path: str) -> int:
    """How many rows a file has, estimated from its head and its size."""
    return raw_text.about(path, _EXPECTED)

  def place(self, piece: Piece) -> tuple[int, str]:
    """Number of a piece's first line, and 'line'."""
    return raw_text.place(piece)

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The good rows of a piece in their order, in frames.

    Args:
      piece: what to read.
      bad: what to do with bad rows.
      digest: takes the lines of the piece in order; of a packed file, the
        bytes on disk.

    Raises:
      InputError: a bad row or a damaged file, unless `bad` skips; a line too
        long to be one.
    """
    lines = Lines(piece, bad)
    for chunk in lines.chunks(digest):
      frame, faults = parse(chunk), []
      if frame is None:
        frame, faults = sift(chunk)
      for number, found in faults:
        lines.add(number, found)
      frame = lines.numbered(frame, kept(frame, [n for n, _ in faults]))
      lines.line += frame.height + len(faults)
      yield from frame.iter_slices(FRAME_ROWS)
