"""Data sets of TFDS, whose features are used like the columns of a CSV file.

    config.data.raw = {'format': 'tfds', 'label': 'user_rating >= 4', ...}
    --input=movielens/100k-ratings:train

With the key `name`, an input is a split: `--input=train --test_input=test`.
Examples are parsed here from their protocol buffers, a feature at a time, which
is faster than TFDS's own parser.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from dlrm_jax.prepare.bad_rows import BadRows, Fault, shorten
from dlrm_jax.prepare.readers.reader import FRAME_ROWS, NUMBER, Piece, numbered
from dlrm_jax.prepare.readers.tfds_source import (
  TfdsSplit,
  open_split,
  parse_input,
)
from dlrm_jax.prepare.values.checks import FIELD, check_keys, read_name
from dlrm_jax.prepare.values.raw_schema import KEYS, RawSchema, schema_of
from dlrm_jax.prepare.values.rules import Rules
from dlrm_jax.prepare.values.sift import apply_rules
from dlrm_jax.vocabulary.columns import Columns

_READ = 1 << 13


@dataclasses.dataclass(frozen=True)
class TfdsReader:
  """Reads data sets of TFDS; a `Reader`.

  Attributes:
    schema: features and their columns; nested columns are 'outer/inner'.
    name: name of the data set; None where the inputs name it.
    data_dir: folder of the prepared data sets; None: TFDS's default.
  """

  schema: RawSchema
  name: str | None = None
  data_dir: str | None = None

  @property
  def columns(self) -> Columns:
    """Columns of the frames."""
    return self.schema.columns

  def pieces(self, path: str) -> list[Piece]:
    """Cuts a split into ranges of examples; prepares the set if necessary."""
    source = self._open(path)
    Rules(self.schema, source.types, path)
    rows = len(source.records)
    return [
      Piece(path, start, min(start + FRAME_ROWS, rows))
      for start in range(0, rows, FRAME_ROWS)
    ]

  def about(self, path: str) -> int:
    """Number of rows of a split."""
    return len(self._open(path).records)

  def place(self, piece: Piece) -> tuple[int, str]:
    """Number of a piece's first row, and 'row'."""
    return piece.start + 1, 'row'

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The good rows of a piece; `digest` gets its examples as stored."""
    path, start, stop = piece
    source = self._open(path)
    rules = Rules(self.schema, source.types, path)
    types = {name: source.types[name] for name in self.schema.names}
    for first in range(start, stop, _READ):
      records = source.read(first, min(first + _READ, stop))
      digest(b''.join(records))
      rows, numbers = _decoded(records, types, path, first, bad)
      frame, faults = apply_rules(rules.rules, rows)
      for row, fault in faults:
        bad.add(path, numbers[row], fault, 'row')
      good = np.asarray(numbers, np.int64)[
        frame.drop_in_place(NUMBER).to_numpy()
      ]
      frame = numbered(frame, good - start - 1)
      if frame.height:
        yield frame

  def _open(self, path: str) -> TfdsSplit:
    name, split = (self.name, path) if self.name else parse_input(path)
    source = open_split(name, split, self.data_dir)
    self.schema.check(source.types, path)
    return source


def _decoded(
  records: Sequence[bytes],
  types: Mapping[str, pl.DataType],
  path: str,
  first: int,
  bad: BadRows,
) -> tuple[pl.DataFrame, list[int]]:
  """Serialised examples -> columns, and the number of each row from 1."""
  from tensorflow_datasets.proto import tf_example_pb2

  parse = tf_example_pb2.Example.FromString  # pyrefly: ignore
  examples = [parse(record).features.feature for record in records]
  numbers = list(range(first + 1, first + len(examples) + 1))
  try:
    return _frame(examples, types), numbers
  except UnicodeDecodeError:
    pass  # Find the bad examples one by one.
  good = []
  for number, example in zip(numbers, examples, strict=True):
    name = ''
    try:
      for name, dtype in types.items():
        _series([example], name, dtype)
      good.append((number, example))
    except UnicodeDecodeError as error:
      value = shorten(error.object)
      fault = Fault('invalid UTF-8', name, value, 'UTF-8 text')
      bad.add(path, number, fault, 'row')
  frame = _frame([example for _, example in good], types)
  return frame, [number for number, _ in good]


def _frame(
  examples: Sequence[Any], types: Mapping[str, pl.DataType]
) -> pl.DataFrame:
  return pl.DataFrame(
    [_series(examples, name, dtype) for name, dtype in types.items()]
  )


def _series(
  examples: Sequence[Any], name: str, dtype: pl.DataType
) -> pl.Series:
  """A feature of all examples; null where a single value is absent."""
  bags = isinstance(dtype, pl.List)
  kind = dtype.inner if bags else dtype  # pyrefly: ignore
  values: list[Any]
  if kind == pl.Int64:
    values = [example[name].int64_list.value for example in examples]
  elif kind == pl.Float32:
    values = [example[name].float_list.value for example in examples]
  else:
    values = [
      [value.decode() for value in example[name].bytes_list.value]
      for example in examples
    ]
  if bags:
    return pl.Series(name, list(map(list, values)), dtype)
  return pl.Series(name, [v[0] if v else None for v in values], dtype)


def tfds_reader(raw: Mapping[str, Any]) -> TfdsReader:
  """The reader that `config.data.raw` describes.

  Raises:
    InputError: a key is missing, unknown or of a wrong value.
  """
  check_keys(FIELD, raw, (*KEYS, 'name', 'data_dir'))
  options = {
    key: read_name(f'{FIELD}.{key}', raw[key])
    for key in ('name', 'data_dir')
    if raw.get(key) is not None
  }
  return TfdsReader(schema_of(raw, separated=False), **options)
