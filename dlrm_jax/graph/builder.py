"""An ONNX graph in the making: operators, constants, and what is not made yet.

An array of the traced function is a NumPy array where it is constant, else a
`Tensor` of the graph, or `Lazy`: made by operators that another operator may
do without. Its shape may be 1, or miss axes, where the array is longer: ONNX
broadcasts as NumPy does, so that a broadcast costs nothing.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
  from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

OPSET = 21
"""Version of ONNX's operators, of 2024, so that many runtimes load a graph."""

Shape = tuple[Any, ...]
"""Sizes of axes, of which some depend on the batch."""


class NoOperator(ValueError):
  """An operation, or a form of it, that no operators are known for."""


class Operation(NamedTuple):
  """An operation of JAX.

  Attributes:
    name: its name.
    params: its parameters.
    given: the types of its inputs.
    results: the types of its results.
  """

  name: str
  params: Mapping[str, Any]
  given: Sequence[Any]
  results: Sequence[Any]

  @property
  def result(self) -> Any:
    """The type of its only result."""
    (found,) = self.results
    return found


class Tensor(NamedTuple):
  """An array that an operator makes, or an input of the graph."""

  name: str
  shape: Shape


class Lazy(abc.ABC):
  """An array whose operators are added once another operator reads it."""

  shape: Shape

  @abc.abstractmethod
  def made(self, builder: 'Builder') -> Tensor:
    """Adds its operators."""


Array = np.ndarray | Tensor | Lazy


class Place(NamedTuple):
  """Where the numbers of an array are, with the names that ONNX uses.

  Attributes:
    location: the file, relative to that of the graph.
    offset: of the first byte.
    length: number of bytes.
  """

  location: str
  offset: int
  length: int


def no_place(array: np.ndarray) -> Place | None:
  """The place of an array that is in no file."""
  del array


def joint(shapes: Sequence[Shape]) -> Shape:
  """The shape of arrays that are broadcast to each other."""
  rank = max(map(len, shapes))
  padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
  return tuple(
    next((size for size in sizes if size != 1), 1)
    for sizes in zip(*padded, strict=True)
  )


class Builder:
  """Collects the operators and constants of a graph.

  Attributes:
    signed: whether codes of kernels stay s8; else they become u8, 128 greater.
      The product of u8 and s8 is fast on CPUs with VNNI; on other x86 CPUs
      sums of pairs saturate at 16 bits, as onnxruntime's documentation of
      quantization says.
    place: where an array is, if it is in a file already.
  """

  def __init__(
    self,
    *,
    signed: bool = False,
    place: Callable[[np.ndarray], Place | None] = no_place,
  ) -> None:
    self.signed = signed
    self.place = place
    self._nodes: list[NodeProto] = []
    self._constants: dict[str, TensorProto] = {}
    self._by_content: dict[Any, str] = {}
    self._made: dict[Lazy, Tensor] = {}

  def node(
    self, operator: str, *inputs: Array, shape: Shape | None = None, **more: Any
  ) -> Tensor:
    """Adds an operator of one result.

    Args:
      operator: its name in ONNX.
      *inputs: its inputs.
      shape: of its result; None: that of its inputs, broadcast.
      **more: its attributes.
    """
    from onnx import helper

    names = [self.name(x) for x in inputs]
    made = f'{operator}_{len(self._nodes)}'
    self._nodes.append(helper.make_node(operator, names, [made], **more))
    if shape is None:
      shape = joint([x.shape for x in inputs])
    return Tensor(made, shape)

  def name(self, array: Array) -> str:
    """The name of an array in the graph, which it then is in."""
    if isinstance(array, Lazy):
      if array not in self._made:
        self._made[array] = array.made(self)
      return self._made[array].name
    return array.name if isinstance(array, Tensor) else self._constant(array)

  def tensor(self, array: Array) -> Tensor:
    """An array as a tensor of the graph."""
    return Tensor(self.name(array), array.shape)

  def cast(self, array: Array, dtype: Any) -> Array:
    """An array of another type."""
    from onnx import helper

    if isinstance(array, np.ndarray):
      return array.astype(dtype)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return self.node('Cast', array, to=to)

  def _constant(self, array: np.ndarray) -> str:
    """The name of a constant; equal ones are there once."""
    from onnx import helper, numpy_helper

    place = self.place(array)
    key = place, array.dtype, array.shape, None if place else array.tobytes()
    if key not in self._by_content:
      name = f'constant_{len(self._constants)}'
      self._by_content[key] = name
      if place is None:
        made = numpy_helper.from_array(np.array(array, order='C'), name)
      else:
        made = _external(name, array, place, helper)
      self._constants[name] = made
    return self._by_content[key]

  def graph(
    self, inputs: Sequence['Port'], output: 'Port', result: Array
  ) -> 'GraphProto':
    """The graph of a result, without what it does not need.

    Args:
      inputs: the inputs of the graph; those that are not needed are left out.
      output: the output.
      result: what it is.
    """
    from onnx import helper

    self._nodes.append(
      helper.make_node('Identity', [self.name(result)], [output.name])
    )
    needed, nodes = {output.name}, []
    for node in reversed(self._nodes):
      if not needed.isdisjoint(node.output):
        needed.update(node.input)
        nodes.append(node)
    return helper.make_graph(
      nodes[::-1],
      'dlrm_jax',
      [x.info() for x in inputs if x.name in needed],
      [output.info()],
      [x for name, x in self._constants.items() if name in needed],
    )


class Port(NamedTuple):
  """An input or output of a graph; sizes that are text may be any."""

  name: str
  dtype: Any
  shape: tuple[int | str, ...]

  def info(self) -> 'ValueInfoProto':
    """As ONNX writes it."""
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
    return helper.make_tensor_value_info(self.name, kind, self.shape)


def _external(
  name: str, array: np.ndarray, place: Place, helper: Any
) -> 'TensorProto':
  """A constant whose numbers are in a file."""
  from onnx import TensorProto

  made = TensorProto(
    name=name,
    dims=array.shape,
    data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
    data_location=TensorProto.EXTERNAL,
  )
  for key, value in place._asdict().items():
    made.external_data.add(key=key, value=str(value))
  return made
