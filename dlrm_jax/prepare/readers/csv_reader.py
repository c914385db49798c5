"""CSV and similar formats: named columns, a row on each line.

The schema is in the config. An empty field is missing; an empty bag is empty.
`values` parses the fields.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows, shorten
from dlrm_jax.prepare.readers.csv_lines import Csv, whole_rows
from dlrm_jax.prepare.readers.lines import Lines, about, cut, first_line, place
from dlrm_jax.prepare.readers.reader import FRAME_ROWS, NUMBER, Piece
from dlrm_jax.prepare.values.checks import FIELD, check_keys
from dlrm_jax.prepare.values.raw_schema import KEYS, RawSchema, schema_of
from dlrm_jax.prepare.values.rules import Rules
from dlrm_jax.prepare.values.sift import apply_rules
from dlrm_jax.vocabulary.columns import Columns

_EXPECTED = 'a CSV file'


@dataclasses.dataclass(frozen=True)
class CsvReader:
  """Reads CSV; a `Reader`.

  Attributes:
    schema: features and their columns.
    separator: one ASCII character.
    header: names of the columns; () where the first line of a file has them.
    quoted: whether fields may be quoted.
    multiline: whether quoted fields may contain line ends; a file is then one
      piece.
  """

  schema: RawSchema
  separator: str = ','
  header: tuple[str, ...] = ()
  quoted: bool = True
  multiline: bool = False

  @property
  def columns(self) -> Columns:
    """Columns of the frames."""
    return self.schema.columns

  def pieces(self, path: str) -> list[Piece]:
    """Cuts a file between lines."""
    self._csv(path)
    return cut(path, _EXPECTED, whole=self.multiline)

  def about(self, path: str) -> int:
    """Estimated number of rows of a file."""
    return about(path, _EXPECTED)

  def place(self, piece: Piece) -> tuple[int, str]:
    """Number of a piece's first line, and 'line'."""
    return place(piece)

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The good rows of a piece; `digest` gets its lines, or a packed file."""
    csv = self._csv(piece.path)
    names = self.schema.names
    rules = Rules(self.schema, dict.fromkeys(names, pl.String()), piece.path)
    lines = Lines(piece, bad)
    texts = lines.chunks(digest)
    if self.multiline:
      texts = whole_rows(texts, piece.path)
    first = piece.start == 0 and not self.header
    for text in texts:
      if first:
        end = text.index(b'\n') + 1
        text, first, lines.line = text[end:], False, 1
      frame, numbers, faults = csv.parse(text, names)
      kept = bool(self.schema.kept)
      frame, more = apply_rules(rules.rules, frame, all_rows=kept)
      faults += [(numbers[n] if numbers else n, fault) for n, fault in more]
      for number, fault in sorted(faults):
        lines.add(number, fault)
      rows = frame.drop_in_place(NUMBER).to_numpy()
      frame = lines.numbered(
        frame, np.asarray(numbers)[rows] if numbers else rows
      )
      lines.line += text.count(b'\n')
      if frame.height:
        yield from frame.iter_slices(FRAME_ROWS)

  def names_in(self, path: str) -> tuple[str, ...]:
    """Names of the columns of a file."""
    return self._csv(path).names

  def _csv(self, path: str) -> Csv:
    """The dialect of a file; checks that it has the columns of the schema."""
    line = first_line(path, _EXPECTED)
    if not line:
      raise InputError(f'{path}, line 1: empty; expected {_EXPECTED}')
    kind = Csv(self.header or ('',), self.separator, self.quoted, False)
    try:
      names = self.header or kind.fields(line.decode('utf-8'))
    except UnicodeDecodeError:
      raise InputError(
        f'{path}, line 1: {shorten(line)} is not UTF-8; expected names of '
        'columns'
      ) from None
    if len(names) == 1:
      raise InputError(
        f'{path}, line 1: one column, {shorten(names[0])}; expected columns '
        f'between {self.separator!r}: set config.{FIELD}.separator'
      )
    self.schema.check(names, path)
    return dataclasses.replace(kind, names=names, multiline=self.multiline)


def csv_reader(raw: Mapping[str, Any]) -> CsvReader:
  """The reader that `config.data.raw` describes.

  Raises:
    InputError: a key is missing, unknown or of a wrong value.
  """
  check_keys(FIELD, raw, (*KEYS, 'separator', 'header', 'quoted', 'multiline'))
  separator = raw.get('separator', ',')
  if (
    not isinstance(separator, str)
    or len(separator) != 1
    or not separator.isascii()
    or separator in '"\r\n\0'
  ):
    raise InputError(
      f'config.{FIELD}.separator is {separator!r}; expected one ASCII '
      "character, such as ',' or '\\t'"
    )
  header = raw.get('header', ())
  if not isinstance(header, (list, tuple)) or not all(
    isinstance(name, str) for name in header
  ):
    raise InputError(
      f'config.{FIELD}.header is {header!r}; expected the names of all columns '
      "(leave it out where a file's first line has them)"
    )
  flags = {'quoted': True, 'multiline': False}
  for name, default in flags.items():
    flags[name] = raw.get(name, default)
    if not isinstance(flags[name], bool):
      raise InputError(
        f'config.{FIELD}.{name} is {flags[name]!r}; expected True or False'
      )
  if flags['multiline'] and not flags['quoted']:
    raise InputError(
      f'config.{FIELD}.multiline needs quoted fields; set quoted to True'
    )
  schema = schema_of(raw, separated=True)
  reader = CsvReader(schema, separator, tuple(header), **flags)
  if header:
    schema.check(reader.header, f'config.{FIELD}.header')
  return reader
