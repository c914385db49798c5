"""What the converters of all programs share: types, axes, column orders.

A program's tensors and our arrays are paired by name (`Match`). A weight of a
layer is [out, in] in PyTorch and a kernel [in, out] here; tables are the same
in both. Where a program orders the inputs of a layer otherwise, its columns
are permuted.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dlrm_jax.checkpoint.fits import leaves
from dlrm_jax.embedding.features import Pooling
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.storage import Storage
from dlrm_jax.models.branches import Branches
from dlrm_jax.models.int8 import Int8
from dlrm_jax.models.mlp import Norm


class Array(Protocol):
  """An array of another program, of which rows can be read.

  Attributes:
    shape: its shape.
    kind: name of its dtype, such as 'float32'.
  """

  @property
  def shape(self) -> tuple[int, ...]: ...  # noqa: D102

  @property
  def kind(self) -> str: ...  # noqa: D102

  def __getitem__(self, rows: slice) -> np.ndarray:
    """Some rows, in float32."""
    ...


class Match(NamedTuple):
  """A tensor of another program and the array that it is here.

  Attributes:
    name: name of the tensor.
    ours: name of our table, or of our array in the parameters of layers, such
      as 'model.bottom.dense_0.kernel'.
    shape: shape of the tensor.
    part: what it belongs to: 'tables', 'projections', 'bottom', 'cross', 'top'.
    columns: the column of the tensor at which each row of our kernel is; None:
      they are in the same order.
    rows: the row of the tensor at which each column of our kernel, or each
      number of our bias, is; None: they are in the same order.
    feature: name of the feature that reads a table.
  """

  name: str
  ours: str
  shape: tuple[int, ...]
  part: str
  columns: np.ndarray | None = None
  rows: np.ndarray | None = None
  feature: str = ''

  @property
  def is_table(self) -> bool:
    """Whether our array is a table, and not one of a layer."""
    return self.part == TABLES

  def to_ours(self, theirs: Any) -> np.ndarray:
    """The array of a layer from the tensor of the other program."""
    value = np.asarray(theirs).T
    if self.columns is not None:
      value = value[self.columns]
    if self.rows is not None:
      value = value[..., self.rows]
    return np.array(value)

  def to_theirs(self, ours: Any) -> np.ndarray:
    """The inverse of `to_ours`, as a contiguous array."""
    value = np.asarray(ours)
    moved = np.empty_like(value)
    here = slice(None) if self.columns is None else self.columns
    there = slice(None) if self.rows is None else self.rows
    if value.ndim == 1:
      moved[there] = value
    else:
      by_column = np.empty_like(value)
      by_column[here] = value
      moved[:, there] = by_column
    return np.array(moved.T, order='C')


TABLES, PROJECTIONS = 'tables', 'projections'
BOTTOM, CROSS, TOP = 'bottom', 'cross', 'top'


class Found(NamedTuple):
  """What a file of another program holds.

  Attributes:
    path: the file or folder.
    tensors: the tensors of its model by name, in the order of the file.
    slots: by name of a tensor the state that an optimizer keeps for it, by the
      optimizer's name of it, such as 'sum'.
  """

  path: Path
  tensors: Mapping[str, Array]
  slots: Mapping[str, Mapping[str, Array]]


class Sizes(NamedTuple):
  """Sizes of a model, as the shapes of its tensors say.

  Attributes:
    dense: N, the number of dense features.
    rows: number of ids of each table.
    fields: fields of a config that make such a model, with their values as
      they are typed, by the part of the model that they decide.
  """

  dense: int
  rows: tuple[int, ...]
  fields: Mapping[str, Mapping[str, object]]

  def flags(self, part: str) -> str:
    """The flags that make a part of a model as it is in the file."""
    fields = self.fields.get(part, {}).items()
    return ' '.join(f'--config.{field}={value}' for field, value in fields)


class Setting(NamedTuple):
  """What is known of a model that is written.

  Attributes:
    learning_rate: of the optimizer of layers.
    step: number of updates.
    accuracy: of split validation, from 0 to 1; 0: unknown.
  """

  learning_rate: float
  step: int
  accuracy: float


class Program(NamedTuple):
  """A program whose files are converted.

  Attributes:
    title: its name.
    find: function from what a file holds, and its path, to what is in it.
    sizes: function from the shapes of tensors to the sizes of their model.
    matches: function from a network to its tensors, in the program's order.
    misfit: function from a network to the reason why the program has no such
      model; '' where it has.
    content: function from all tensors, slots of optimizers and settings to
      what the program would save.
    slot: function from a tensor, the names of the optimizers of layers and of
      tables, and whether a folder is written, to the name that the program has
      for the sums of squares of that tensor; '' where it keeps none.
    why_no_slot: why a program keeps none.
    advice: function from a network to the program's flags that make its model.
    folders: whether the program also has folders of
      torch.distributed.checkpoint.
    load_quantised: function from the storages of tables, by name of their
      tensor, to the call that makes a model for them; None: the program has no
      quantised tables.
  """

  title: str
  find: Callable[[Any, Path], Found]
  sizes: Callable[[Mapping[str, tuple[int, ...]]], Sizes]
  matches: Callable[[Network], list[Match]]
  misfit: Callable[[Network], str]
  content: Callable[
    [Mapping[str, Any], Mapping[str, Mapping[str, Any]], Setting], Any
  ]
  slot: Callable[[Match, str, str, bool], str]
  why_no_slot: str
  advice: Callable[[Network], str]
  folders: bool
  load_quantised: Callable[[Mapping[str, Storage]], str] | None = None


def layer_arrays(network: Network) -> dict[str, tuple[int, ...]]:
  """Shapes of the parameters of the layers of a network, by name."""
  layers = jax.eval_shape(lambda: network.init(jax.random.key(0)))
  return {name: tuple(x.shape) for name, x in leaves(layers.params).items()}


def layers_below(arrays: Mapping[str, object], part: str) -> list[int]:
  """Numbers of the layers of an MLP, `dense_0`, ..., in order.

  >>> layers_below({'model.top.dense_1.bias': 0, 'model.out.bias': 0}, 'top')
  [1]
  """
  start = f'model.{part}.dense_'
  found = {
    int(name.removeprefix(start).partition('.')[0])
    for name in arrays
    if name.startswith(start)
  }
  return sorted(found)


def weights(
  shapes: Mapping[str, tuple[int, ...]], pattern: str
) -> dict[int, tuple[int, ...]]:
  """Shapes of the matrices whose names fit a pattern, by the number in them.

  Args:
    shapes: shapes of tensors by name.
    pattern: a regular expression with one group, the number.
  """
  found = ((re.fullmatch(pattern, name), x) for name, x in shapes.items())
  matrices = ((match, x) for match, x in found if match and len(x) == 2)
  return dict(sorted((int(match[1]), x) for match, x in matrices))


def typed(widths: Sequence[int]) -> str:
  """Widths of layers as they are typed in a flag.

  >>> typed([32, 16]), typed([])
  ('32,16', '()')
  """
  return ','.join(map(str, widths)) or '()'


def common_misfit(network: Network) -> str:
  """Why neither program has such a network; '' where one may have.

  The reason begins with the field that is to blame, without `config.`.
  """
  model, features = network.model, network.collection.features
  if isinstance(model, Branches):
    return f'model.branches is {model.count}; expected 1'
  if isinstance(getattr(model, 'operands', None), Int8):
    return (
      'model.compute_dtype is int8; expected float32 or bfloat16: quantise the '
      'trained model without --layers=int8'
    )
  norm = getattr(model, 'norm', Norm.NONE)
  if norm is not Norm.NONE:
    return f'model.norm is {norm.value}; expected none'
  if network.scale is not None:
    return 'model.dense_scaling is standard; expected none'
  if getattr(model, 'outputs', 1) != 1:
    return f'model.name: the data has {model.outputs} labels; expected one'
  if not network.dense_features:
    return 'data.dir: the data has no dense features; expected one or more'
  readers: dict[str, str] = {}
  for feature in features:
    if feature.pooling is not Pooling.SUM:
      return f'tables.pooling (feature {feature.name}) is mean; expected sum'
    for table in feature.encoding.tables:
      if table.placement.independent:
        return (
          f'tables.placement (feature {feature.name}) is independent, a table '
          f'for each shard; expected one table'
        )
      if readers.setdefault(table.name, feature.name) != feature.name:
        return (
          f'tables: {readers[table.name]} and {feature.name} share table '
          f'{table.name}; expected a table for each feature'
        )
  return ''
