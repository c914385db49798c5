"""Parquet with a schema in the config; bags are list columns.

The type of a column must fit the schema (see `typed`): integers are not text,
and dates are not numbers. Pieces are ranges of rows; Polars reads only the row
groups that contain them.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.readers.archives import file_format
from dlrm_jax.prepare.readers.reader import FRAME_ROWS, Piece
from dlrm_jax.prepare.readers.text_files import check_readable
from dlrm_jax.prepare.values.checks import FIELD, check_keys
from dlrm_jax.prepare.values.raw_schema import KEYS, RawSchema, schema_of
from dlrm_jax.prepare.values.rules import Rules
from dlrm_jax.prepare.values.sift import apply_rules
from dlrm_jax.vocabulary.columns import Columns

_BLOCK = 1 << 16
_EXPECTED = 'a Parquet file'


@dataclasses.dataclass(frozen=True)
class ParquetReader:
  """Reads Parquet; a `Reader`.

  Attributes:
    schema: features and their columns.
  """

  schema: RawSchema

  @property
  def columns(self) -> Columns:
    """Columns of the frames."""
    return self.schema.columns

  def pieces(self, path: str) -> list[Piece]:
    """Cuts a file into pieces of `FRAME_ROWS` rows."""
    self._rules(path)
    rows = self.about(path)
    return [
      Piece(path, start, min(start + FRAME_ROWS, rows))
      for start in range(0, rows, FRAME_ROWS)
    ]

  def about(self, path: str) -> int:
    """Number of rows of a file."""
    check_readable(path, _EXPECTED)
    try:
      return pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError) as error:
      raise _broken(path, error) from error

  def place(self, piece: Piece) -> tuple[int, str]:
    """Number of a piece's first row, and 'row'."""
    return piece.start + 1, 'row'

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The good rows of a piece; `digest` gets the digest of all its values."""
    path, start, stop = piece
    rules = self._rules(path)
    try:
      frame = (
        pl.scan_parquet(path, glob=False)
        .select(self.schema.names)
        .slice(start, stop - start)
        .collect()
      )
    except (pl.exceptions.PolarsError, OSError) as error:
      raise _broken(path, error) from error
    digest(frame_digest(frame))
    kept = bool(self.schema.kept)
    frame, faults = apply_rules(rules.rules, frame, all_rows=kept)
    for row, fault in faults:
      bad.add(path, start + row + 1, fault, 'row')
    if frame.height:
      yield frame

  def _rules(self, path: str) -> Rules:
    check_readable(path, _EXPECTED)
    try:
      types = pl.scan_parquet(path, glob=False).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
      raise _broken(path, error) from error
    except pl.exceptions.PanicException as error:
      raise InputError(
        f'{path}: Polars does not know a type of its columns '
        f'({str(error)[:200]!r}); write them as numbers, text, or lists of '
        'these'
      ) from None
    self.schema.check(types, path)
    return Rules(self.schema, types, path)


def frame_digest(frame: pl.DataFrame) -> bytes:
  """SHA-256 of the names, types and values of all columns."""
  digest = hashlib.sha256()
  # The numbers that Polars gives to categories depend on what it read before.
  text = pl.col(pl.Categorical).cast(pl.String)
  for part in frame.with_columns(text).iter_slices(_BLOCK):
    digest.update(repr(part.schema).encode())
    digest.update(part.write_ipc(None, compression='uncompressed').getbuffer())
  return digest.digest()


def _broken(path: str, error: Exception) -> InputError:
  why = (str(error).splitlines() or [''])[0][:200]
  kind = file_format(path)
  if kind != 'Parquet':
    return InputError(
      f'{path}: expected a Parquet file, found {kind or "another format"}; '
      f'write one, or set config.{FIELD}.format'
    )
  return InputError(
    f'{path}: not a whole Parquet file ({why}); expected one, so copy or write '
    'it again'
  )


def parquet_reader(raw: Mapping[str, Any]) -> ParquetReader:
  """The reader that `config.data.raw` describes.

  Raises:
    InputError: a key is missing, unknown or of a wrong value.
  """
  check_keys(FIELD, raw, KEYS)
  return ParquetReader(schema_of(raw, separated=False))
