"""The reader of raw Criteo click logs.

Plain files are cut by bytes: a piece has the lines that begin in it. A packed
file can only be read from its beginning, so it is one piece.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import polars as pl

from dlrm_jax.prepare.bad_rows import BadRows, Fault
from dlrm_jax.prepare.criteo.criteo_rows import DENSE, SPARSE
from dlrm_jax.prepare.criteo.text import parse_lines, sift_lines
from dlrm_jax.prepare.readers import lines as raw_text
from dlrm_jax.prepare.readers.lines import Lines
from dlrm_jax.prepare.readers.reader import FRAME_ROWS, Piece, kept
from dlrm_jax.vocabulary.columns import Columns, Dense, Sparse

_EXPECTED = 'a Criteo click log'


@dataclasses.dataclass(frozen=True)
class CriteoReader:
  """Reads Kaggle's train.txt, the Terabyte's day_*.gz and the like; a `Reader`.

  Attributes:
    transform: transform of the dense features, a word of `Dense.transform`.
    hash_rows: number of rows of each table if values are hashed; 0: values
      have vocabularies.
    multi_hot: number of ids in the made-up bag of each sparse feature; empty:
      ids stay.
    num_embeddings: number of rows of each table, modulo which ids are taken;
      empty: each table has the rows of its vocabulary.
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
    """The description of the reader as a JSON value."""
    return {'format': 'criteo', **dataclasses.asdict(self)}

  def pieces(self, path: str) -> list[Piece]:
    """Cuts a file, in order, without reading it through.

    Raises:
      InputError: the file is missing, empty, or may not be read.
    """
    return raw_text.cut(path, _EXPECTED)

  def about(self, path: str) -> int:
    """Number of rows of a file, estimated from its first lines and its size."""
    return raw_text.about(path, _EXPECTED)

  def place(self, piece: Piece) -> tuple[int, str]:
    """Number of the first line of a piece, and 'line'."""
    return raw_text.place(piece)

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The good rows of a piece in their order, in frames.

    Args:
      piece: the piece to read.
      bad: counter of bad rows.
      digest: function that takes the lines of the piece in order, or the bytes
        on disk of a packed file.

    Raises:
      InputError: a row is bad or the file is damaged, and `bad` does not skip;
        or a line is far too long.
    """
    lines = Lines(piece, bad)
    for chunk in lines.chunks(digest):
      frame, faults = self._parsed(chunk)
      for number, fault in faults:
        lines.add(number, fault)
      frame = lines.numbered(frame, kept(frame, [n for n, _ in faults]))
      lines.line += frame.height + len(faults)
      yield from frame.iter_slices(FRAME_ROWS)

  def _parsed(
    self, chunk: bytes
  ) -> tuple[pl.DataFrame, list[tuple[int, Fault]]]:
    """Whole lines -> the good ones, and the faults of others by number."""
    frame = parse_lines(chunk)
    return sift_lines(chunk) if frame is None else (frame, [])


class UnlabelledCriteoReader(CriteoReader):
  """Reads lines without a label, such as those of Kaggle's test.txt."""

  def _parsed(
    self, chunk: bytes
  ) -> tuple[pl.DataFrame, list[tuple[int, Fault]]]:
    """As of labelled lines; the frame has a label of 0."""
    labelled = b'0\t' + chunk[:-1].replace(b'\n', b'\n0\t') + b'\n'
    frame, faults = super()._parsed(labelled)
    return frame, [(number, _without_label(fault)) for number, fault in faults]


def _without_label(fault: Fault) -> Fault:
  """A fault of a line whose label was put before it."""
  if fault.column or not fault.value.endswith(' columns'):
    return fault
  count = int(fault.value.split()[0]) - 1
  expected = 'between tabs (I1 ... I13, C1 ... C26)'
  columns = len(DENSE) + len(SPARSE)
  return fault._replace(
    value=f'{count} columns', expected=f'{columns} {expected}'
  )


def has_labels(path: str) -> bool:
  """Whether the first line of a file begins with a label."""
  line = raw_text.first_line(path, _EXPECTED)
  return line.count(b'\t') != len(DENSE) + len(SPARSE) - 1
