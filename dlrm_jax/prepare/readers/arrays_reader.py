"""Criteo's logs as arrays of numbers, written by other programs.

Three formats of 13 dense and 26 sparse features:

    fb_npz        facebookresearch/dlrm: X_int, X_cat, y in an .npz file
    fb_bin        the same as int32 records [y, X_int, X_cat], one a row
    torchrec_npy  TorchRec: NAME_dense.npy, NAME_sparse.npy, NAME_labels.npy

Ids of the first two are rows of tables. The sizes of the tables are in an
array `counts` of an .npz file: `config.data.raw.counts` names that file, or
`config.data.raw.rows` lists the sizes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.criteo.criteo_rows import DENSE, SPARSE
from dlrm_jax.prepare.readers.array_logs import (
  OPEN,
  ArrayLog,
  counts_beside,
  counts_of,
)
from dlrm_jax.prepare.readers.array_rows import good_rows
from dlrm_jax.prepare.readers.reader import FRAME_ROWS, Piece
from dlrm_jax.prepare.values.checks import FIELD, check_keys
from dlrm_jax.prepare.values.raw_schema import MAX_ROWS, encoding
from dlrm_jax.vocabulary.columns import Columns, Dense, Sparse

_PIECE_ROWS = 4 * FRAME_ROWS


@dataclasses.dataclass(frozen=True)
class ArrayReader:
  """Reads Criteo's features as numbers; a `Reader`.

  Attributes:
    format: 'fb_npz', 'fb_bin' or 'torchrec_npy'.
    ids: how values become rows, as in `Sparse`.
    rows: rows of each table; () where values are counted for a vocabulary.
  """

  format: str
  ids: str
  rows: tuple[int, ...] = ()

  @property
  def columns(self) -> Columns:
    """13 dense and 26 sparse features."""
    transform = 'none' if self.format == 'torchrec_npy' else 'log1p'
    rows = self.rows or (0,) * len(SPARSE)
    return Columns(
      tuple(Dense(name, transform) for name in DENSE),
      tuple(
        Sparse(name, self.ids, n) for name, n in zip(SPARSE, rows, strict=True)
      ),
    )

  def pieces(self, path: str) -> list[Piece]:
    """Cuts a file between rows; a compressed file is one piece."""
    log = self._open(path)
    step = log.rows if log.packed else _PIECE_ROWS
    return [
      Piece(path, start, min(start + step, log.rows))
      for start in range(0, log.rows, step)
    ]

  def about(self, path: str) -> int:
    """Number of rows of a file."""
    return self._open(path).rows

  def place(self, piece: Piece) -> tuple[int, str]:
    """Number of a piece's first row, and 'row'."""
    return piece.start + 1, 'row'

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The good rows of a piece; `digest` gets the values of all arrays."""
    path, start, stop = piece
    first = start
    log, columns = self._open(path), self.columns
    for rows in log.parts(start, stop):
      for part in rows:
        digest(part.tobytes())
      frame = good_rows(columns, rows, log.paths, first, start, bad)
      first += len(rows.labels)
      if frame.height:
        yield frame

  def _open(self, path: str) -> ArrayLog:
    log = OPEN[self.format](path)
    if log.counts and log.counts != self.rows:
      table, count = next(
        (n, c) for n, c in enumerate(log.counts) if c != self.rows[n]
      )
      raise InputError(
        f'{path}: counts has {count:,} ids of {SPARSE[table]}, but '
        f'config.{FIELD} {self.rows[table]:,}; expected the counts that were '
        'written with this file'
      )
    return log


def sized(raw: Mapping[str, Any], files: Sequence[str]) -> dict[str, Any]:
  """A config of fb_npz or fb_bin with the sizes of the tables, `rows`.

  Args:
    raw: `config.data.raw`, with `rows` or `counts` or neither.
    files: the inputs; where `raw` has neither, the sizes are looked for in
      these files and in their folders.

  Raises:
    InputError: no sizes are found, or they are wrong.
  """
  check_keys(FIELD, raw, ('format', 'counts', 'rows'))
  if 'rows' in raw and 'counts' in raw:
    raise InputError(
      f'config.{FIELD} has rows and counts; expected one of them, as counts '
      'names the file that has the rows'
    )
  if 'rows' in raw:
    return {'format': raw['format'], 'rows': _sizes(raw['rows'])}
  if 'counts' in raw:
    path = raw['counts']
    if not isinstance(path, str):
      raise InputError(
        f'config.{FIELD}.counts is {path!r}; expected the name of a file'
      )
  else:
    path = counts_beside(files)
  return {'format': raw['format'], 'rows': counts_of(path)}


def _sizes(rows: object) -> tuple[int, ...]:
  if (
    not isinstance(rows, (list, tuple))
    or len(rows) != len(SPARSE)
    or not all(type(n) is int and 0 < n <= MAX_ROWS for n in rows)
  ):
    raise InputError(
      f'config.{FIELD}.rows is {str(rows)[:60]}; expected the rows of '
      f'{len(SPARSE)} tables, each 1 ... {MAX_ROWS}'
    )
  return tuple(rows)


def fb_reader(raw: Mapping[str, Any]) -> ArrayReader:
  """The reader of fb_npz and fb_bin that `config.data.raw` describes.

  Raises:
    InputError: a key is missing, unknown or of a wrong value.
  """
  complete = sized(raw, ())
  return ArrayReader(complete['format'], 'rows', complete['rows'])


def torchrec_reader(raw: Mapping[str, Any]) -> ArrayReader:
  """The reader of torchrec_npy that `config.data.raw` describes.

  Keys are ids and rows: one number for all tables, or a list of 26.

  Raises:
    InputError: a key is unknown or of a wrong value.
  """
  check_keys(FIELD, raw, ('format', 'ids', 'rows'))
  rows = raw.get('rows', ()) or ()
  rows = (rows,) * len(SPARSE) if type(rows) is int else rows
  sizes = _sizes(rows) if rows else ()
  ids = encoding(FIELD, {**raw, 'rows': max(sizes, default=0)})['ids']
  return ArrayReader(raw['format'], ids, sizes)
