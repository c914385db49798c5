"""Features of a model: the values of requests -> ids, or numbers.

Values are encoded by the code of prepare.
"""

import dataclasses
import functools
import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from dlrm_jax.batch import PAD
from dlrm_jax.prepare.bad_rows import BadRows, Fault
from dlrm_jax.prepare.readers.reader import NUMBER
from dlrm_jax.prepare.stages.transforms import TRANSFORMS
from dlrm_jax.prepare.values.raw_schema import DenseSource, SparseSource
from dlrm_jax.prepare.values.typed import FLOAT_MAX
from dlrm_jax.scoring.frames import IN_MEMORY, FrameReader
from dlrm_jax.scoring.intake import Intake
from dlrm_jax.serving.interface import ColumnRows
from dlrm_jax.serving.memory import Encoded, Faults, Memory
from dlrm_jax.serving.tensors import Tensor
from dlrm_jax.vocabulary.coder import Coder
from dlrm_jax.vocabulary.lookup import Lookup

_LEAST = {'log3': -3.0}  # numbers must be above


@dataclasses.dataclass(frozen=True)
class _OpenCoder(Coder):
  """A coder that keeps its files open, whatever is in their place later."""

  @functools.cached_property
  def _lookups(self) -> list[Lookup]:
    return [Lookup.open(path) for path in self.tables]

  @functools.cached_property
  def _drawn(self) -> np.ndarray:
    return super().drawn()

  def lookup(self, number: int) -> Lookup:
    """A lookup table."""
    return self._lookups[number]

  def drawn(self) -> np.ndarray:
    """The made-up ids of each row's bag after the first."""
    return self._drawn


def _opened(coder: Coder) -> _OpenCoder:
  """The same coder with its files open."""
  fields = dataclasses.fields(coder)
  found = _OpenCoder(**{f.name: getattr(coder, f.name) for f in fields})
  if found.tables:
    _ = found._lookups
  if found.bags:
    found.drawn()
  return found


class _Noted(BadRows):
  """Bad rows, each with its fault."""

  def __init__(self) -> None:
    super().__init__('skip')
    self.faults: Faults = {}

  def add(
    self, path: str, number: int, fault: Fault, unit: str = 'line'
  ) -> None:
    """Notes the fault of a row; `number` is from 1."""
    del path, unit
    self.faults.setdefault(
      number - 1, f'{fault.kind}: {fault.value}; expected {fault.expected}'
    )


def _kind_of(key: Any) -> Hashable:
  """Texts, numbers, bags of texts and bags of numbers are kinds."""
  if not isinstance(key, tuple):
    return type(key)
  return tuple, type(key[0]) if key else None


def _kinds_of(pair: tuple[Any, Any]) -> Hashable:
  return tuple(map(_kind_of, pair))


def _rows_of(tensor: Tensor) -> list[Any]:
  """The rows of a tensor of one or two sizes; a tuple for each of two."""
  data = tensor.data
  if isinstance(data, np.ndarray):
    rows = data.tolist()
    return rows if data.ndim == 1 else list(map(tuple, rows))
  if len(tensor.shape) == 1:
    return data
  width = tensor.shape[1]
  return [
    tuple(data[row * width : (row + 1) * width])
    for row in range(tensor.shape[0])
  ]


def _singles_of(tensor: Tensor) -> list[Any]:
  """The values of a tensor that has one in each row."""
  data = tensor.data
  return data.ravel().tolist() if isinstance(data, np.ndarray) else data


def _bag(row: Any) -> Any:
  """A bag without the empty texts that fill it up."""
  if isinstance(row, tuple) and b'' in row:
    return tuple(filter(None, row))
  return row


def _weighted_bag(row: Any, weights: Any) -> tuple[Any, Any]:
  """A bag and its weights, without those of the empty texts."""
  if isinstance(row, tuple) and b'' in row and len(row) == len(weights):
    weights = tuple(w for x, w in zip(row, weights, strict=True) if x)
  return _bag(row), weights


def _text(text: bytes) -> str | None:
  """A text; None: it is missing; a NUL, which no text has: it is not UTF-8."""
  try:
    return text.decode() or None
  except UnicodeDecodeError:
    return '\0'


def _integers(values: Iterable[int]) -> Any:
  """The type of Polars for integers of 64 bits."""
  return pl.UInt64 if any(value >= 2**63 for value in values) else pl.Int64


def _series(name: str, values: Sequence[Any]) -> pl.Series:
  """Values of one kind as a column of Polars."""
  first = values[0]
  if isinstance(first, bytes):
    return pl.Series(name, list(map(_text, values)), pl.String)
  if isinstance(first, int):
    return pl.Series(name, values, _integers(values))
  item = first[0] if first else b''
  if isinstance(item, bytes):
    bags = [list(map(_text, bag)) for bag in values]
    return pl.Series(name, bags, pl.List(pl.String))
  kind = pl.Float64
  if isinstance(item, int):
    kind = _integers(itertools.chain.from_iterable(values))
  return pl.Series(name, list(map(list, values)), pl.List(kind))


def _column_alone(intake: Intake, **sources: Any) -> Intake:
  schema = dataclasses.replace(intake.schema, dense=(), sparse=())
  return dataclasses.replace(
    intake, schema=dataclasses.replace(schema, **sources), coders=()
  )


class SparseFeature:
  """A sparse feature.

  Attributes:
    name: its name.
    hotness: number of its ids.
  """

  def __init__(
    self, intake: Intake, source: SparseSource, coder: Coder, *, weighted: bool
  ) -> None:
    alone = _column_alone(intake, sparse=(source,))
    self._intake = dataclasses.replace(alone, coders=(_opened(coder),))
    self._source, self._weighted = source, weighted
    self.name, self.hotness = source.feature.name, coder.hotness
    kind_of = _kinds_of if source.weights else _kind_of
    self._memory = Memory(self._empty, kind_of, self._encode)

  def _empty(self, count: int) -> list[np.ndarray]:
    shape = (count, self.hotness)
    ids = np.full(shape, PAD, np.int32)
    return [ids, np.zeros(shape, np.float32)] if self._weighted else [ids]

  def _keys(self, tensors: ColumnRows) -> list[Any]:
    values = tensors[self._source.column]
    if not self._source.feature.bag:
      return _singles_of(values)
    rows = _rows_of(values)
    if self._source.weights is None:
      return list(map(_bag, rows))
    weights = _rows_of(tensors[self._source.weights])
    most = max(len(rows), len(weights))
    rows, weights = (x * most if len(x) == 1 else x for x in (rows, weights))
    return list(map(_weighted_bag, rows, weights))

  def encoded(self, tensors: Iterable[ColumnRows]) -> tuple[Encoded, list[int]]:
    """The ids and weights of requests, and the number of values of each."""
    by_request = list(map(self._keys, tensors))
    keys = list(itertools.chain.from_iterable(by_request))
    return self._memory(keys), list(map(len, by_request))

  def remembers(self, tensors: ColumnRows) -> bool:
    """Whether it need not encode the values of a request."""
    return self._memory.has(self._keys(tensors))

  def needed(self) -> bool:
    """Whether values must not be missing."""
    missing = () if self._source.feature.bag else b''
    key = (missing, missing) if self._source.weights else missing
    return bool(self._memory([key]).faults)

  def _encode(self, keys: list[Any]) -> Encoded:
    source, bad = self._source, _Noted()
    values, weights = keys, []
    if source.weights:
      values, weights = zip(*keys, strict=True)
    columns = [_series(source.column, values)]
    if source.weights:
      columns.append(_series(source.weights, weights))
    reader = FrameReader(self._intake.schema, pl.DataFrame(columns))
    arrays = self._empty(len(keys))
    for piece in reader.pieces(IN_MEMORY):
      for rows in self._intake.read(reader, piece, bad):
        numbers, (_, ids, id_weights, _) = (
          rows.numbers + piece.start,
          rows.inputs,
        )
        arrays[0][numbers] = ids
        if self._weighted and id_weights is not None:
          arrays[1][numbers] = id_weights
        elif self._weighted:  # free places of a bag have no weight
          there = ids != PAD if source.feature.bag else np.ones_like(ids)
          arrays[1][numbers] = there
    return Encoded(arrays, bad.faults)


class DenseFeature:
  """A dense feature."""

  def __init__(self, intake: Intake, source: DenseSource) -> None:
    self._schema = _column_alone(intake, dense=(source,)).schema
    self._source = source
    self.name = source.feature.name
    self._memory = Memory(self._empty, _kind_of, self._encode)

  def _empty(self, count: int) -> list[np.ndarray]:
    return [np.zeros(count)]

  def _numbers(self, tensor: Tensor) -> Encoded:
    """Numbers f64[n], NaN where missing."""
    if isinstance(tensor.data, list):
      return self._memory(tensor.data)
    numbers = tensor.data.ravel().astype(np.float64)
    missing = np.isin(numbers, self._schema.missing.numbers)
    numbers[missing] = np.nan
    least = _LEAST.get(self._source.feature.transform, -np.inf)
    wrong = (np.abs(numbers) > FLOAT_MAX) | (numbers <= least)
    faults = {}
    if wrong.any():
      above = f' above {least:g}' if least > -np.inf else ''
      for n in np.flatnonzero(wrong).tolist():
        faults[n] = (
          f'not a number: {numbers[n]:g}; expected a finite one{above}'
        )
      numbers[wrong] = 0
    return Encoded([numbers], faults)

  def remembers(self, tensors: ColumnRows) -> bool:
    """Whether it need not encode the values of a request."""
    values = tensors[self._source.column].data
    return isinstance(values, np.ndarray) or self._memory.has(values)

  def encoded(self, tensors: Iterable[ColumnRows]) -> tuple[Encoded, list[int]]:
    """The numbers of requests, f32[n, 1], and how many each has."""
    found = [self._numbers(x[self._source.column]) for x in tensors]
    faults, lengths = {}, []
    for part in found:
      before = sum(lengths)
      faults |= {before + n: fault for n, fault in part.faults.items()}
      lengths.append(len(part.arrays[0]))
    numbers = np.concatenate([part.arrays[0] for part in found])
    transform = TRANSFORMS[self._source.feature.transform]
    numbers = transform(self.name, np.nan_to_num(numbers, nan=0))
    return Encoded([numbers[:, None]], faults), lengths

  def _encode(self, keys: list[Any]) -> Encoded:
    bad, numbers = _Noted(), self._empty(len(keys))
    frame = pl.DataFrame([_series(self._source.column, keys)])
    reader = FrameReader(self._schema, frame)
    for piece in reader.pieces(IN_MEMORY):
      for rows in reader.read(piece, bad, lambda data: None):
        places = rows[NUMBER].cast(pl.Int64).to_numpy() + piece.start
        numbers[0][places] = rows[self.name].fill_null(np.nan).to_numpy()
    return Encoded(numbers, bad.faults)
