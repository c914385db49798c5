"""Rows to send: drawn by the metadata of a model, or of a file of raw rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from tritonclient.utils import triton_to_np_dtype

from dlrm_jax.errors import InputError
from dlrm_jax.load_test.wire import Tensor
from dlrm_jax.prepare.bad_rows import shorten

_MOST_ROWS = 65_536  # of a file
_BAG = 3  # ids of a bag that is drawn
_SEPARATORS = ',\t;'
_TEXT = 'BYTES'


class Spec(NamedTuple):
  """An input of a model.

  Attributes:
    name: its name.
    datatype: its type.
    row: sizes of a row; -1: any.
  """

  name: str
  datatype: str
  row: tuple[int, ...]


class Inputs(NamedTuple):
  """The inputs of a model, of which a request has one set.

  Attributes:
    network: as the network takes them; empty where the model does not say.
    columns: all others: the columns of its log, or all inputs.
  """

  network: tuple[Spec, ...]
  columns: tuple[Spec, ...]


def inputs_of(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> Inputs:
  """The inputs that a model has, by its metadata and configuration.

  Models of `dlrm_jax.serve` name those of the network as a list in JSON.
  """
  parameters = config.get('parameters') or {}
  network = parameters.get('network_inputs', {}).get('string_value', '[]')
  names = json.loads(network)
  specs = [
    Spec(x['name'], x['datatype'], tuple(map(int, x['shape'][1:])))
    for x in metadata['inputs']
  ]
  return Inputs(
    tuple(spec for spec in specs if spec.name in names),
    tuple(spec for spec in specs if spec.name not in names),
  )


def draw(inputs: Inputs, count: int, rng: np.random.Generator) -> list[Tensor]:
  """Made-up rows: numbers are exponential, texts and ids are decimal.

  Most ids are unknown to a vocabulary. A text of seven digits is also a number
  in hex.
  """

  def tensor(spec: Spec) -> Tensor:
    shape = (count, *(_BAG if size < 0 else size for size in spec.row))
    numbers = rng.integers(0, 10_000_000, shape)
    if spec.datatype == _TEXT:
      return Tensor(spec.name, _TEXT, numbers.astype(str).astype(object))
    kind = np.dtype(triton_to_np_dtype(spec.datatype))
    values = rng.exponential(size=shape) if kind.kind == 'f' else numbers
    if kind.kind in 'iu':
      values = np.minimum(values, np.iinfo(kind).max)
    return Tensor(spec.name, spec.datatype, values.astype(kind))

  return [tensor(spec) for spec in inputs.columns]


class Rows(NamedTuple):
  """Rows of a file.

  Attributes:
    frame: the rows.
    specs: the inputs that its columns are.
  """

  frame: pl.DataFrame
  specs: tuple[Spec, ...]

  def part(self, start: int, count: int) -> list[Tensor]:
    """So many rows from a row on; behind the last comes the first."""
    places = (start + np.arange(count)) % self.frame.height
    some = self.frame[places]
    return [_tensor(spec, some[spec.name]) for spec in self.specs]


def read(path: str, inputs: Inputs) -> Rows:
  """Reads the first rows of a file, Parquet or text with names of columns.

  Raises:
    InputError: it cannot be read, or lacks a column.
  """
  frame = _frame(Path(path), [x.name for x in inputs.columns])
  if not frame.height:
    raise InputError(f'--data={path}: no rows')
  for specs in (inputs.network, inputs.columns):
    if specs and all(spec.name in frame.columns for spec in specs):
      rows = Rows(frame, specs)
      rows.part(0, frame.height)  # a value that cannot be sent is told now
      return rows
  missing = [x.name for x in inputs.columns if x.name not in frame.columns]
  raise InputError(
    f'--data={path}: there is no column {missing[0]!r}; the model takes '
    f'{shorten(", ".join(x.name for x in inputs.columns), 300)}'
  )


def _frame(path: Path, names: Sequence[str]) -> pl.DataFrame:
  try:
    with path.open('rb') as file:
      first = file.readline(1 << 20)
    if first.startswith(b'PAR1'):
      return pl.read_parquet(path, n_rows=_MOST_ROWS, glob=False)
    line = first.decode('utf-8', 'replace').rstrip()

    def known(separator: str) -> int:
      return len(set(line.split(separator)) & set(names))

    return pl.read_csv(
      path,
      separator=max(_SEPARATORS, key=known),
      infer_schema=False,
      n_rows=_MOST_ROWS,
      glob=False,
    )
  except OSError as error:
    raise InputError(
      f'--data={path}: cannot be read: {error.strerror or error}'
    ) from None
  except pl.exceptions.PolarsError as error:
    why = str(error).splitlines()[0]
    raise InputError(f'--data={path}: cannot be read: {why}') from None


def _tensor(spec: Spec, values: pl.Series) -> Tensor:
  """Values of a column as an input.

  Missing numbers are NaN, missing integers and texts are empty texts.
  """
  lists = isinstance(values.dtype, pl.List | pl.Array)
  if lists and spec.row not in ((1,), ()):
    return _of_lists(spec, values)
  if spec.row == (-1,) and values.dtype == pl.String:
    text = values.fill_null('').to_numpy().astype(object)
    return Tensor(spec.name, _TEXT, text)  # a bag is one text
  if lists or spec.row not in ((1,), ()):
    raise InputError(
      f'--data: column {spec.name!r} is {values.dtype}; the model takes '
      f'{spec.datatype} with rows of sizes {list(spec.row)}'
    )
  datatype, array = _flat(spec, values)
  return Tensor(spec.name, datatype, array.reshape(-1, *spec.row))


def _flat(spec: Spec, values: pl.Series) -> tuple[str, np.ndarray]:
  """Single values, one a row."""
  if spec.datatype != _TEXT:
    kind = np.dtype(triton_to_np_dtype(spec.datatype))
    numbers = _cast(spec, values, pl.Float64 if kind.kind == 'f' else pl.Int64)
    if kind.kind == 'f':
      return spec.datatype, numbers.fill_null(np.nan).to_numpy().astype(kind)
    if not numbers.null_count():
      return spec.datatype, numbers.to_numpy().astype(kind)
    values = numbers
  text = values.cast(pl.String).fill_null('')
  return _TEXT, text.to_numpy().astype(object)


def _cast(spec: Spec, values: pl.Series, kind: Any) -> pl.Series:
  """Numbers; empty texts are missing.

  Raises:
    InputError: a text is no number.
  """
  given = values
  if values.dtype == pl.String:
    given = values.str.strip_chars()
    given = given.set(given == '', None)
  numbers = given.cast(kind, strict=False)
  bad = (numbers.is_null() & given.is_not_null()).arg_true()
  if len(bad):
    raise InputError(
      f'--data: column {spec.name!r} has {shorten(values[bad[0]])}; the model '
      f'takes {spec.datatype}'
    )
  return numbers


def _of_lists(spec: Spec, values: pl.Series) -> Tensor:
  """Lists, padded to the longest with empty texts, or with zeros."""
  lists = [list(x) if x is not None else [] for x in values.to_list()]
  lengths = {len(x) for x in lists}
  width = max(lengths | {1}) if spec.row == (-1,) else spec.row[0]
  if spec.row != (-1,) and lengths != {width}:
    raise InputError(
      f'--data: column {spec.name!r} has a list of {max(lengths - {width})}; '
      f'the model takes {width}'
    )
  fill = '' if spec.datatype == _TEXT else 0
  full = [x + [fill] * (width - len(x)) for x in lists]
  if spec.datatype == _TEXT:
    texts = [['' if x is None else str(x) for x in row] for row in full]
    array = np.array(texts, object).reshape(len(full), width)
    return Tensor(spec.name, _TEXT, array)
  kind = triton_to_np_dtype(spec.datatype)
  return Tensor(spec.name, spec.datatype, np.array(full, kind))
