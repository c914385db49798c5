"""LIBSVM (`label index:value ...`) and LIBFFM (`label field:index:value ...`).

Indices are ids, and values are their weights. A LIBSVM row is one bag,
'features'; a LIBFFM row has one bag for each field, 'field0', 'field1', ...
Where `fields` names the positions of a LIBSVM row, each position is a feature
of one id, whose value must be 1.

Text behind `#`, empty lines, and `qid:N` behind the label are ignored.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows, Fault, shorten
from dlrm_jax.prepare.readers.lines import Lines, about, cut, place
from dlrm_jax.prepare.readers.reader import FRAME_ROWS, Piece
from dlrm_jax.prepare.values.checks import FIELD, check_keys, read_name
from dlrm_jax.prepare.values.label import clicks
from dlrm_jax.prepare.values.raw_schema import (
  check_feature,
  encoding,
  hotness_of,
)
from dlrm_jax.prepare.values.typed import FLOAT_MAX, NUMBER, Typed, Words, wide
from dlrm_jax.vocabulary.columns import Columns, Sparse

_MAX_FIELDS = 4096
_EXPECTED = 'a LIBSVM or LIBFFM file'


@dataclasses.dataclass(frozen=True)
class LibsvmReader:
  """Reads LIBSVM and LIBFFM; a `Reader`.

  Attributes:
    sparse: the feature of each field or position; one bag without fields.
    fields: whether a row names the field of each index (LIBFFM).
  """

  sparse: tuple[Sparse, ...]
  fields: bool

  @property
  def columns(self) -> Columns:
    """Columns of the frames."""
    return Columns((), self.sparse)

  def pieces(self, path: str) -> list[Piece]:
    """Cuts a file between lines."""
    return cut(path, _EXPECTED)

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
    lines = Lines(piece, bad)
    for chunk in lines.chunks(digest):
      frame, faults = self._parse(chunk)
      for number, fault in faults:
        lines.add(number, fault)
      frame = lines.numbered(frame.drop('n'), frame['n'].to_numpy())
      lines.line += chunk.count(b'\n')
      if frame.height:
        yield from frame.iter_slices(FRAME_ROWS)

  @property
  def _by_position(self) -> bool:
    return not self.sparse[0].bag

  def _parse(
    self, chunk: bytes
  ) -> tuple[pl.DataFrame, list[tuple[int, Fault]]]:
    """Lines -> good rows, with line numbers `n`; and bad rows with theirs."""
    lines = chunk.split(b'\n')[:-1]
    if b'#' in chunk:
      lines = [line.partition(b'#')[0] for line in lines]
    # Bytes that are not ASCII become a character that no pattern matches.
    texts = [line.decode('ascii', 'replace') for line in lines]
    row = pl.col('row').str.strip_chars(' \t\r')
    if b'qid:' in chunk:
      row = row.str.replace(r'^([^ \t]+)[ \t]+qid:[0-9]+', '$1')
    frame = pl.DataFrame({'row': texts}, schema={'row': pl.String})
    frame = frame.with_row_index('n').with_columns(row)
    rows = _labelled(frame.filter(pl.col('row') != ''))
    rows = rows.with_columns(
      ok=pl.col('label').is_not_null() & self._well_formed()
    )
    pairs = self._pairs(rows.filter('ok'))
    wrong = pairs.filter(~pl.col('good').fill_null(False))['n'].unique()
    ok = pl.col('ok') & ~pl.col('n').is_in(wrong.implode())
    faults = [
      (n, self._fault(row, label is None))
      for n, row, label in rows.filter(~ok)['n', 'row', 'label'].rows()
    ]
    good = rows.filter(ok).select('n', 'label')
    if self._by_position:
      return self._singles(good, pairs), faults
    return self._bags(good, pairs), faults

  def _well_formed(self) -> pl.Expr:
    """Mask of the rows of the right form; ranges are not checked."""
    field = '[0-9]{1,9}:' if self.fields else ''
    count = f'{{{len(self.sparse)}}}' if self._by_position else '*'
    feature = rf'[ \t]+{field}[0-9]{{1,20}}:{NUMBER}'
    return pl.col('row').str.contains(rf'^[^ \t]+(?:{feature}){count}$')

  def _pairs(self, rows: pl.DataFrame) -> pl.DataFrame:
    """Line number, field, id, weight and whether it is good, for each id."""
    pairs = self._pairs_of(rows, lambda x: x.cast(pl.Int64, strict=False))
    if not pairs['id'].null_count():
      return pairs
    return self._pairs_of(rows, wide)  # Slower, for ids beyond Int64.

  def _pairs_of(
    self, rows: pl.DataFrame, integer: Callable[[pl.Expr], pl.Expr]
  ) -> pl.DataFrame:
    part, place = pl.col('part').list, int(self.fields)
    field = pl.lit(0)
    if self.fields:
      field = part.get(0).cast(pl.Int64)
    elif self._by_position:
      field = pl.int_range(pl.len()) % len(self.sparse)
    weight = part.get(place + 1).cast(pl.Float64)
    good = weight == 1 if self._by_position else weight.abs() <= FLOAT_MAX
    return (
      rows.lazy()
      .select('n', part=pl.col('row').str.extract_all(r'[^ \t]+').list.slice(1))
      .explode('part')
      .drop_nulls('part')
      .with_columns(pl.col('part').str.split(':'))
      .select(
        'n',
        field=field,
        id=integer(part.get(place)),
        weight=weight.cast(pl.Float32, strict=False),
        good=good,
      )
      .with_columns(
        good=pl.col('good')
        & pl.col('id').is_not_null()
        & (pl.col('field') < len(self.sparse))
      )
      .collect()
    )

  def _bags(self, rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Rows with the bags of all fields, which may be empty."""
    frame = rows
    for number, bag in enumerate(self.sparse):
      names = [bag.name, f'{bag.name}.weights']
      chosen = pairs.filter(field=number)
      values = pl.col('id', 'weight')
      values = values.head(bag.hotness) if bag.hotness else values
      bags = chosen.group_by('n', maintain_order=True).agg(values)
      bags = bags.rename(dict(zip(('id', 'weight'), names, strict=True)))
      frame = frame.join(bags, on='n', how='left', maintain_order='left')
      frame = frame.with_columns(pl.col(names).fill_null([]))
    return frame

  def _singles(self, rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Rows with the ids of all positions."""
    ids = pairs.join(rows, on='n', how='semi', maintain_order='left')
    return rows.with_columns(
      ids.filter(field=number)['id'].alias(column.name)
      for number, column in enumerate(self.sparse)
    )

  def _fault(self, row: str, bad_label: bool) -> Fault:
    """The first fault of a bad row."""
    label, *features = row.split()
    if bad_label:
      return Fault('bad label', None, shorten(label), _EXPECTED_LABEL)
    form = 'field:index:value' if self.fields else 'index:value'
    if self._by_position and len(features) != len(self.sparse):
      count, expected = f'{len(features)} features', f'{len(self.sparse)}'
      return Fault('wrong number of features', None, count, expected)
    single = dataclasses.replace(self, sparse=self.sparse[:1])
    reader = single if self._by_position else self
    for feature in features:
      frame = pl.DataFrame({'n': [0], 'row': [f'0 {feature}']})
      formed = frame.select(reader._well_formed()).item()
      if not formed or not reader._pairs(frame)['good'].item():
        fields = f', field 0 ... {len(self.sparse) - 1}' if self.fields else ''
        value = 'value 1' if self._by_position else 'value finite'
        expected = f'{form}, index 0 ... 2^64 - 1, {value}{fields}'
        return Fault('bad feature', None, shorten(feature), expected)
    return Fault('bad row', None, shorten(row), f'label, then {form}')


_EXPECTED_LABEL = 'one number, 0 or 1, or -1 or 1'


def _labelled(frame: pl.DataFrame) -> pl.DataFrame:
  """Adds the column of labels; null for bad labels."""
  texts = frame.select(pl.col('row').str.extract(r'^([^ \t]+)'))
  for quick in (True, False):
    parsed = clicks(Typed(pl.col('row'), pl.String()), Words(), quick=quick)
    labels = texts.select(label=parsed.value)['label']
    if not labels.null_count():
      break
  return frame.with_columns(labels)


def libsvm_reader(raw: Mapping[str, Any]) -> LibsvmReader:
  """The reader that `config.data.raw` describes.

  Keys are `ids`, `rows` and `hotness`, which hold for every bag, and `fields`:
  for LIBFFM the number of fields or their names, for LIBSVM the names of all
  positions.

  Raises:
    InputError: a key is missing, unknown or of a wrong value.
  """
  has_fields = raw['format'] == 'libffm'
  named = isinstance(raw.get('fields'), (list, tuple))
  by_position = named and not has_fields
  keys = ('format', 'ids', 'rows', 'fields', *['hotness'] * (not by_position))
  check_keys(FIELD, raw, keys)
  names = _names(raw.get('fields'), has_fields=has_fields)
  options = encoding(FIELD, raw)
  if by_position:
    return LibsvmReader(tuple(Sparse(name, **options) for name in names), False)
  hotness = hotness_of(FIELD, raw)
  return LibsvmReader(
    tuple(
      Sparse(name, **options, hotness=hotness, bag=True, weighted=True)
      for name in names
    ),
    has_fields,
  )


def _names(fields: Any, *, has_fields: bool) -> list[str]:
  """Names of the features."""
  where = f'{FIELD}.fields'
  if isinstance(fields, (list, tuple)) and fields:
    for name in fields:
      check_feature(where, read_name(where, name))
    if len(set(fields)) < len(fields):
      raise InputError(f'config.{where} has a name twice: {list(fields)}')
    return list(fields)
  if not has_fields and fields is None:
    return ['features']
  if not has_fields or type(fields) is not int or not 0 < fields <= _MAX_FIELDS:
    number = f'the number of fields, 1 ... {_MAX_FIELDS}, or ' * has_fields
    raise InputError(
      f'config.{where} is {fields!r}; expected {number}a list of their names'
    )
  return [f'field{i}' for i in range(fields)]
