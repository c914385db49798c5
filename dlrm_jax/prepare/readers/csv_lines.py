"""Lines of a CSV file -> columns of text, strictly.

A row is a line of UTF-8 text with one field for each column. A field may be
quoted ("a ""b"", c"); an unquoted field has no quotes. `Csv.fault` defines
which rows are good. `Csv.parse` lets Polars split a chunk of lines, after
checking for faults that Polars accepts: short rows and broken quotes.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator

import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import Fault, shorten
from dlrm_jax.prepare.readers.text_files import CHUNK_BYTES
from dlrm_jax.text import human

QUOTE = '"'


@dataclasses.dataclass(frozen=True)
class Csv:
  """The dialect of one CSV file.

  Attributes:
    names: names of the columns.
    separator: one ASCII character.
    quoted: whether fields may be quoted; else quotes are ordinary characters.
    multiline: whether quoted fields may contain line ends.
  """

  names: tuple[str, ...]
  separator: str
  quoted: bool
  multiline: bool

  @functools.cached_property
  def _row(self) -> str:
    """A regular expression of a good row."""
    mark = re.escape(self.separator)
    end = '' if self.multiline else r'\n'
    # Possessive, so that matching never backtracks.
    field = rf'(?>"(?>[^"{end}]|"")*+"|[^"\n{mark}]*+)'
    return f'(?>{field}(?:{mark}{field}){{{len(self.names) - 1}}}+)'

  @functools.cached_property
  def _one(self) -> re.Pattern[bytes]:
    return re.compile(self._row.encode())

  @functools.cached_property
  def _many(self) -> re.Pattern[bytes]:
    return re.compile(rf'(?>{self._row}\n)*+'.encode())

  @functools.cached_property
  def _others(self) -> bytes:
    """All bytes except the separator and the line end."""
    keep = self.separator.encode() + b'\n'
    return bytes(byte for byte in range(256) if byte not in keep)

  def fault(self, row: bytes) -> Fault | None:
    """The first fault of a row (without its end), or None."""
    try:
      text = row.decode('utf-8')
    except UnicodeDecodeError as error:
      bad = repr(row[error.start : error.start + 8])
      return Fault('invalid UTF-8', None, bad, 'UTF-8 text')
    for kind, mark in (('NUL byte', '\0'), ('carriage return', '\r')):
      if mark in text:
        expected = f'text without {kind}s inside of lines'
        return Fault(kind, None, shorten(text), expected)
    if self.quoted and QUOTE in text:
      return self._quote_fault(row, text)
    return self._count_fault(len(text.split(self.separator)))

  def _count_fault(self, count: int) -> Fault | None:
    if count == len(self.names):
      return None
    expected = f'{len(self.names)} between {self.separator!r}'
    return Fault('wrong number of columns', None, f'{count} columns', expected)

  def _quote_fault(self, row: bytes, text: str) -> Fault | None:
    if self._one.fullmatch(row):
      return None
    if text.count(QUOTE) % 2:
      expected = (
        'quotes that end in their line (fields that go over lines need '
        "'multiline': True; quotes that mean nothing need 'quoted': False)"
      )
      return Fault('open quote', None, shorten(text), expected)
    fields = re.findall(self._field, text + self.separator)
    if ''.join(fields) == text + self.separator:
      return self._count_fault(len(fields))
    expected = 'quotes around whole fields, doubled inside'
    return Fault('stray quote', None, shorten(text), expected)

  @functools.cached_property
  def _field(self) -> str:
    mark = re.escape(self.separator)
    return rf'(?>"(?>[^"]|"")*+"|[^"{mark}]*+){mark}'

  def fields(self, line: str) -> tuple[str, ...]:
    """The fields of one line, without their quotes."""
    if not self.quoted or QUOTE not in line:
      return tuple(line.split(self.separator))
    fields = re.findall(self._field, line + self.separator)
    return tuple(
      field[1:-2].replace(QUOTE * 2, QUOTE)
      if field.startswith(QUOTE)
      else field[:-1]
      for field in fields
    )

  def _is_good(self, text: bytes) -> bool:
    """Whether all rows of a chunk are good, by quick tests."""
    if b'\r' in text or b'\0' in text:
      return False
    if not text.isascii():
      try:
        text.decode('utf-8')
      except UnicodeDecodeError:
        return False
    if self.quoted and QUOTE.encode() in text:
      return self._many.fullmatch(text) is not None
    ends = text.translate(None, self._others)
    row = self.separator.encode() * (len(self.names) - 1) + b'\n'
    lines, rest = divmod(len(ends), len(row))
    return not rest and ends == row * lines

  def rows(self, text: bytes) -> Iterator[tuple[int, bytes]]:
    """Rows of a chunk, without their ends, each with its line number from 0."""
    lines = text.split(b'\n')[:-1]
    if not self.multiline:
      yield from enumerate(lines)
      return
    start, opened = 0, False
    for number, line in enumerate(lines):
      opened ^= bool(line.count(b'"') % 2)
      if not opened or number == len(lines) - 1:
        yield start, b'\n'.join(lines[start : number + 1])
        start = number + 1

  def parse(
    self, text: bytes, columns: tuple[str, ...]
  ) -> tuple[pl.DataFrame, list[int] | None, list[tuple[int, Fault]]]:
    """Whole rows -> columns of text; null for empty fields.

    Returns:
      The frame of the good rows; the number of the first line of each, from 0,
      or None if each line is a good row; and the bad rows, with the numbers of
      their first lines.
    """
    if b'\r' in text:
      text = text.replace(b'\r\n', b'\n')
    lines = not self.multiline or QUOTE.encode() not in text
    if lines and self._is_good(text):
      return self._split(text, columns), None, []
    numbers: list[int] = []
    good: list[bytes] = []
    faults: list[tuple[int, Fault]] = []
    for number, row in self.rows(text):
      if fault := self.fault(row):
        faults.append((number, fault))
      else:
        good.append(row)
        numbers.append(number)
    frame = self._split(b'\n'.join([*good, b'']), columns)
    if frame.height != len(numbers):
      raise AssertionError(f'{frame.height} of {len(numbers)} rows were split')
    return frame, numbers, faults

  def _split(self, text: bytes, columns: tuple[str, ...]) -> pl.DataFrame:
    if not text:
      return pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    quoted = self.quoted and QUOTE.encode() in text
    places = {name: str(self.names.index(name)) for name in columns}
    frame = pl.read_csv(
      text,
      separator=self.separator,
      has_header=False,
      quote_char=QUOTE if quoted else None,
      schema=dict.fromkeys(map(str, range(len(self.names))), pl.String),
      columns=sorted(map(int, places.values())),
    )
    if quoted:
      frame = frame.with_columns(pl.all().replace('', None))
    return frame.select(**places)


def whole_rows(chunks: Iterable[bytes], path: str) -> Iterator[bytes]:
  """Chunks of whole lines -> chunks of whole rows, whose quotes are closed."""
  rest = b''
  for chunk in chunks:
    text = rest + chunk
    end = place = 0
    opened = False
    for line in text.split(b'\n')[:-1]:
      place += len(line) + 1
      opened ^= bool(line.count(b'"') % 2)
      end = end if opened else place
    if end:
      yield text[:end]
    rest = text[end:]
    if len(rest) > CHUNK_BYTES:
      raise InputError(
        f'{path}: a quoted field longer than {human(CHUNK_BYTES)}; expected '
        'every quote to be closed'
      )
  if rest:
    yield rest
