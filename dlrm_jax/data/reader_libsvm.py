"""LIBSVM (`label index:value ...`) and LIBFFM (`label field:index:value ...`).

Indices are ids, values their weights: all of a row are one bag, 'features';
of LIBFFM there is a bag for each field, 'field0', 'field1', ... A label is 1
or +1, and 0 or -1.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import polars as pl

from dlrm_jax.data.bad_rows import BadRows, Fault
from dlrm_jax.data.raw import FRAME_ROWS, Columns, Piece, Sparse, kept
from dlrm_jax.data.raw_rules import FLOAT_MAX, NUMBER, shorten
from dlrm_jax.data.raw_schema import FIELD, check_keys, encoding, hotness_of
from dlrm_jax.data.raw_text import Lines, about, cut, place
from dlrm_jax.errors import InputError

_LABELS = {'1': 1, '+1': 1, '0': 0, '-1': 0}
_MAX_FIELDS = 4096
_EXPECTED = 'a LIBSVM or LIBFFM file'


@dataclasses.dataclass(frozen=True)
class LibsvmReader:
  """Reads LIBSVM and LIBFFM; a `Reader`.

  Attributes:
    bags: what becomes of each field; one, where there are no fields.
    fields: whether features name their field (LIBFFM).
  """

  bags: tuple[Sparse, ...]
  fields: bool

  @property
  def columns(self) -> Columns:
    """What frames have."""
    return Columns((), self.bags)

  def pieces(self, path: str) -> list[Piece]:
    """Cuts a file between lines."""
    return cut(path, _EXPECTED)

  def about(self, path: str) -> int:
    """How many rows a file has, about."""
    return about(path, _EXPECTED)

  def place(self, piece: Piece) -> tuple[int, str]:
    """Number of a piece's first line, and 'line'."""
    return place(piece)

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The good rows of a piece; `digest` takes its lines, or a packed file."""
    lines = Lines(piece, bad)
    for text in lines.chunks(digest):
      frame, faults = self._parse(text)
      for number, found in faults:
        lines.add(number, found)
      frame = lines.numbered(frame, kept(frame, [n for n, _ in faults]))
      lines.line += text.count(b'\n')
      if frame.height:
        yield from frame.iter_slices(FRAME_ROWS)

  def _parse(self, text: bytes) -> tuple[pl.DataFrame, list[tuple[int, Fault]]]:
    rows = text.split(b'\n')[:-1]
    # What is not ASCII is bad: it becomes a character that nothing matches.
    texts = [row.decode('ascii', 'replace') for row in rows]
    frame = pl.DataFrame({'row': texts}, schema={'row': pl.String}).select(
      row=pl.col('row').str.strip_chars_end(' \t\r')
    )
    made = frame.select('row', ok=self._well_formed()).with_row_index('n')
    pairs = self._pairs(made.filter('ok'))
    wrong = pairs.filter(~pl.col('good').fill_null(False))['n'].unique()
    ok = pl.col('ok') & ~pl.col('n').is_in(wrong.implode())
    faults = [
      (n, self._fault(row)) for n, row in made.filter(~ok)['n', 'row'].rows()
    ]
    kept = made.filter(ok).select(
      'n',
      label=pl.col('row')
      .str.extract(r'^([^ \t]+)')
      .replace_strict(_LABELS, return_dtype=pl.UInt8),
    )
    return self._bags(kept, pairs), faults

  def _well_formed(self) -> pl.Expr:
    """Labels and features that look as they should; not yet their ranges."""
    field = '[0-9]{1,9}:' if self.fields else ''
    feature = f'{field}[0-9]{{1,18}}:{NUMBER}'
    return pl.col('row').str.contains(rf'^(?:[+-]?1|0)(?:[ \t]+{feature})*$')

  def _pairs(self, rows: pl.DataFrame) -> pl.DataFrame:
    """A row a feature: number of its line, field, id, weight, whether good."""
    part, place = pl.col('part').list, int(self.fields)
    field = part.get(0) if self.fields else pl.lit(0)
    weight = part.get(place + 1).cast(pl.Float64)
    return (
      rows.lazy()
      .select('n', part=pl.col('row').str.extract_all(r'[^ \t]+').list.slice(1))
      .explode('part')
      .drop_nulls('part')
      .with_columns(pl.col('part').str.split(':'))
      .select(
        'n',
        field=field.cast(pl.Int64),
        id=part.get(place).cast(pl.Int64),
        weight=weight.cast(pl.Float32, strict=False),
        good=weight.abs() <= FLOAT_MAX,
      )
      .with_columns(good=pl.col('good') & (pl.col('field') < len(self.bags)))
      .collect()
    )

  def _bags(self, rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Rows with a bag of each field; empty where a row has none of it."""
    frame = rows
    for number, bag in enumerate(self.bags):
      names = [bag.name, f'{bag.name}.weights']
      chosen = pairs.filter(field=number)
      values = pl.col('id', 'weight')
      values = values.head(bag.hotness) if bag.hotness else values
      bags = chosen.group_by('n', maintain_order=True).agg(values)
      bags = bags.rename(dict(zip(('id', 'weight'), names, strict=True)))
      frame = frame.join(bags, on='n', how='left', maintain_order='left')
      frame = frame.with_columns(pl.col(names).fill_null([]))
    return frame.drop('n')

  def _fault(self, row: str) -> Fault:
    """The first thing wrong with a row that is known to be bad."""
    label, *features = row.split() or ['']
    if label not in _LABELS:
      return Fault('bad label', None, shorten(label), '1, +1, 0 or -1')
    form = 'field:index:value' if self.fields else 'index:value'
    for feature in features:
      frame = pl.DataFrame({'n': [0], 'row': [f'0 {feature}']})
      formed = frame.select(self._well_formed()).item()
      if not formed or not self._pairs(frame)['good'].item():
        fields = f', field 0 ... {len(self.bags) - 1}' if self.fields else ''
        return Fault(
          'bad feature', None, shorten(feature), f'{form}, finite{fields}'
        )
    return Fault('bad row', None, shorten(row), f'label, then {form}')


def libsvm_reader(raw: Mapping[str, Any]) -> LibsvmReader:
  """The reader that `config.data.raw` describes.

  Keys are ids, rows and hotness of every bag, and of LIBFFM `fields`, the
  number of fields.

  Raises:
    InputError: a key is missing, unknown or of a wrong value.
  """
  has_fields = raw['format'] == 'libffm'
  keys = ['format', 'ids', 'rows', 'hotness', *['fields'] * has_fields]
  check_keys(FIELD, raw, keys)
  count = raw.get('fields', 0) if has_fields else 1
  if type(count) is not int or not 1 <= count <= _MAX_FIELDS:
    raise InputError(
      f'config.{FIELD}.fields is {count!r}; expected the number of fields, '
      f'1 ... {_MAX_FIELDS}'
    )
  names = [f'field{i}' for i in range(count)] if has_fields else ['features']
  options = encoding(FIELD, raw)
  hotness = hotness_of(FIELD, raw)
  return LibsvmReader(
    tuple(
      Sparse(name, **options, hotness=hotness, bag=True, weighted=True)
      for name in names
    ),
    has_fields,
  )
