"""What a model takes and gives, and whether a request fits.

A request has one of two sets of inputs: `dense` and `ids` (and `id_weights`) as
the network takes them, or a tensor for each column of the raw log. A tensor
with one row beside others of B rows stands for B equal rows.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.batch import PAD
from dlrm_jax.data.checked import negative_weight
from dlrm_jax.data.schema import Schema
from dlrm_jax.prepare.bad_rows import shorten
from dlrm_jax.prepare.values.raw_schema import RawSchema
from dlrm_jax.serving.refusal import invalid
from dlrm_jax.serving.tensors import BYTES, Tensor

OUTPUTS = ('probability', 'logit')
"""Names of what a model gives, each f32[B, T]."""

_INTEGERS = ('INT64', 'INT32', 'INT16', 'INT8', 'UINT64', 'UINT32', 'UINT16')
_NUMBERS = ('FP32', 'FP64', *_INTEGERS)
_MOST_IN_BAG = 10_000
_AHEAD = 'network.'  # of names that columns of the log have, too


class Spec(NamedTuple):
  """An input or output as a model's metadata have it.

  Attributes:
    name: its name.
    datatype: the type that is advised.
    row: sizes of a row; -1: any.
    also: other types that are taken.
    flat: types that may come without the sizes of a row.
  """

  name: str
  datatype: str
  row: tuple[int, ...]
  also: tuple[str, ...] = ()
  flat: tuple[str, ...] = ()

  @property
  def shape(self) -> list[int]:
    """Its shape; -1: any number of rows."""
    return [-1, *self.row]


class NetworkRows(NamedTuple):
  """Rows as the network takes them; of each array B, or one for all.

  Attributes:
    dense: f32[B, N].
    ids: i32[B, H].
    id_weights: f32[B, H]; None: the network takes none.
  """

  dense: np.ndarray
  ids: np.ndarray
  id_weights: np.ndarray | None


ColumnRows = Mapping[str, Tensor]
"""Rows as the log has them: a tensor of each column, of B rows or one."""


class Question(NamedTuple):
  """Rows to score.

  Attributes:
    count: B.
    rows: the rows.
  """

  count: int
  rows: NetworkRows | ColumnRows


def _raw_specs(raw: RawSchema) -> dict[str, Spec]:
  """The columns of a raw log by name, as inputs."""
  numbers, integers = (*_NUMBERS, BYTES), (*_INTEGERS, BYTES)
  found = {
    source.column: Spec(source.column, 'FP32', (1,), numbers, numbers)
    for source in raw.dense
  }
  for source in raw.sparse:
    name, integer = source.column, source.values == 'integer'
    also = integers if integer else (BYTES,)
    if source.feature.bag:
      # Empty texts fill bags up. A text alone may be a whole bag.
      flat = (BYTES,) if source.separator else ()
      found.setdefault(name, Spec(name, BYTES, (-1,), also, flat))
      if weights := source.weights:
        found[weights] = Spec(weights, 'FP32', (-1,), numbers, flat)
    else:
      kind = 'INT64' if integer else BYTES
      found.setdefault(name, Spec(name, kind, (1,), also, also))
  return found


@dataclasses.dataclass(frozen=True, eq=False)
class Interface:
  """The inputs and outputs of a model.

  Attributes:
    schema: the columns of the network.
    raw: the columns of the raw log.
    weighted: whether the network takes the weights of ids.
    means: names of the features that are pooled by their mean.
    columns: an input for each column of the raw log, by name.
    network: the inputs as the network takes them.
    outputs: what the model gives.
    places: number of rows of the table that each place of `ids` reads, i64[H].
  """

  schema: Schema
  raw: RawSchema
  weighted: bool
  means: tuple[str, ...] = ()
  columns: Mapping[str, Spec] = dataclasses.field(init=False)
  network: tuple[Spec, ...] = dataclasses.field(init=False)
  outputs: tuple[Spec, ...] = dataclasses.field(init=False)
  places: np.ndarray = dataclasses.field(init=False)

  def __post_init__(self) -> None:
    columns = _raw_specs(self.raw)
    names = ('dense', 'ids', 'id_weights')
    ahead = _AHEAD if columns.keys() & set(names) else ''
    dense, ids, weights = (ahead + name for name in names)
    hotness = self.schema.hotness
    network = [
      Spec(dense, 'FP32', (len(self.schema.dense),)),
      Spec(ids, 'INT32', (hotness,), ('INT64',)),
    ]
    if self.weighted:
      network.append(Spec(weights, 'FP32', (hotness,)))
    tasks = (len(self.schema.labels),)
    outputs = tuple(Spec(name, 'FP32', tasks) for name in OUTPUTS)
    object.__setattr__(self, 'columns', columns)
    object.__setattr__(self, 'network', tuple(network))
    object.__setattr__(self, 'outputs', outputs)
    rows = [c.rows for c in self.schema.sparse for _ in range(c.hotness)]
    object.__setattr__(self, 'places', np.array(rows, np.int64))

  @property
  def inputs(self) -> Iterator[Spec]:
    """All inputs, of both sets."""
    yield from self.network
    yield from self.columns.values()

  def parameters(self) -> dict[str, str]:
    """What clients must know beside the inputs, as JSON by name.

    A request has all of `network_inputs`, or all of `column_inputs`.
    """
    found = {
      'network_inputs': [spec.name for spec in self.network],
      'column_inputs': list(self.columns),
      'labels': list(self.schema.labels),
    }
    return {name: json.dumps(value) for name, value in found.items()}

  def question(self, tensors: Mapping[str, Tensor]) -> Question:
    """The rows of a request.

    Raises:
      RefusedError: they do not fit the model.
    """
    if self.network[0].name in tensors or self.network[1].name in tensors:
      return self._of_network(tensors)
    return self._of_columns(tensors)

  def _of_network(self, tensors: Mapping[str, Tensor]) -> Question:
    _check_names(tensors, [spec.name for spec in self.network])
    arrays: list[Any] = []
    for spec in self.network:
      tensor = tensors[spec.name]
      _check_type(spec, tensor)
      if tensor.shape[1:] != spec.row or len(tensor.shape) != 2:
        raise _wrong_shape(spec, tensor)
      arrays.append(tensor.data)
    count = _count_of({spec.name: tensors[spec.name] for spec in self.network})
    dense, ids, *weights = arrays
    if not np.isfinite(dense).all():
      raise invalid(f'{self.network[0].name} has a number that is not finite')
    return Question(
      count,
      NetworkRows(dense, self._checked(ids), self._weights(*weights)),
    )

  def _checked(self, ids: np.ndarray) -> np.ndarray:
    """Ids as i32.

    Raises:
      RefusedError: one is no row of its table, and not PAD.
    """
    wrong = (ids >= self.places) | (ids < PAD)
    if wrong.any():
      row, place = np.argwhere(wrong)[0]
      name = [c.name for c in self.schema.sparse for _ in range(c.hotness)]
      most = self.places[place] - 1
      raise invalid(
        f'{self.network[1].name}: row {row}, feature {name[place]}: id '
        f'{ids[row, place]}; expected 0 ... {most}, or {PAD} for none'
      )
    return ids.astype(np.int32, copy=False)

  def _weights(self, weights: np.ndarray | None = None) -> np.ndarray | None:
    if weights is None:
      return None
    if not np.isfinite(weights).all():
      raise invalid(f'{self.network[2].name} has a number that is not finite')
    if found := self.negative(weights):
      raise invalid(f'row {found[0]}, {found[1]}')
    return weights

  def negative(self, weights: np.ndarray | None) -> tuple[int, str] | None:
    """The first row with a weight that a mean cannot have, and the fault."""
    found = negative_weight(self.schema, self.means, weights)
    if found is None:
      return None
    return (
      found.row,
      f'feature {found.feature}: an id of weight {found.weight:g}; it is '
      'pooled by the mean, whose weights must not be negative',
    )

  def _of_columns(self, tensors: Mapping[str, Tensor]) -> Question:
    _check_names(tensors, list(self.columns))
    for name, spec in self.columns.items():
      tensor = tensors[name]
      _check_type(spec, tensor)
      flat = len(tensor.shape) == 1 and tensor.datatype in spec.flat
      if not flat and (
        len(tensor.shape) != 2 or spec.row not in (tensor.shape[1:], (-1,))
      ):
        raise _wrong_shape(spec, tensor)
      if not flat and tensor.shape[1] > _MOST_IN_BAG:
        raise invalid(
          f'input {name} has bags of {tensor.shape[1]:,}; expected at most '
          f'{_MOST_IN_BAG:,} values'
        )
    return Question(_count_of(tensors), tensors)


def _check_names(tensors: Mapping[str, Tensor], names: Sequence[str]) -> None:
  if missing := [name for name in names if name not in tensors]:
    others = [name for name in tensors if name not in names]
    unknown = f', and {shorten(others[0])} is unknown' if others else ''
    raise invalid(
      f'the request lacks input {shorten(missing[0])}{unknown}; expected '
      f'{shorten(", ".join(names), 600)}'
    )
  if len(tensors) > len(names):
    other = next(name for name in tensors if name not in names)
    raise invalid(
      f'there is no such input as {shorten(other)} beside '
      f'{shorten(", ".join(names), 600)}'
    )


def _check_type(spec: Spec, tensor: Tensor) -> None:
  if tensor.datatype != spec.datatype and tensor.datatype not in spec.also:
    expected = ', '.join(dict.fromkeys((spec.datatype, *spec.also)))
    raise invalid(
      f'input {spec.name} is {tensor.datatype}; expected {expected}'
    )


def _wrong_shape(spec: Spec, tensor: Tensor) -> Exception:
  return invalid(
    f'input {spec.name} has the shape {list(tensor.shape)}; expected '
    f'{spec.shape}'
  )


def _count_of(tensors: Mapping[str, Tensor]) -> int:
  """B, the number of rows.

  Raises:
    RefusedError: there are none, or tensors have different numbers of them.
  """
  counts = {tensor.shape[0] for tensor in tensors.values()} - {1}
  if len(counts) > 1 or 0 in counts:
    shown = {name: tensor.shape[0] for name, tensor in tensors.items()}
    raise invalid(
      f'inputs have {shorten(shown, 200)} rows; expected one number, or 1'
    )
  return counts.pop() if counts else 1
