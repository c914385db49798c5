"""Products of int8 in an ONNX graph: MatMulInteger.

jax2onnx writes a product of codes as Gemm, which ONNX has for floats alone. Of
MatMulInteger onnxruntime has three forms for CPUs: s8 and s8 is slow; u8 and s8
saturates on CPUs without VNNI, as its documentation of quantization says; u8
and u8 is exact and fast. So codes of both operands become 128 greater, and 128
is their zero point. Those of kernels do so when the graph is loaded.
"""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from onnx import GraphProto, NodeProto

_PRODUCTS = 'Gemm', 'MatMul'
_ZERO, _ONE = 'codes/zero', 'codes/one'
_NUMBERS = {_ZERO: np.uint8(128), _ONE: np.float32(1)}


def use_integer_products(graph: 'GraphProto') -> None:
  """Turns the products of a graph whose kernels are s8 into MatMulInteger.

  Args:
    graph: as jax2onnx writes it, with kernels as inputs.
  """
  from onnx import TensorProto, numpy_helper

  kernels = {
    x.name
    for x in graph.input
    if x.type.tensor_type.elem_type == TensorProto.INT8
  }
  products = {
    x.output[0]: x
    for x in graph.node
    if x.op_type in _PRODUCTS and x.input[1] in kernels
  }
  if not products:
    return
  codes = {x.input[0] for x in products.values()}
  absent = {name for x in products.values() for name in x.input[2:]}
  nodes = [new for x in graph.node for new in _instead(x, codes, products)]
  kept = [x for x in graph.initializer if x.name not in absent]
  for name, number in _NUMBERS.items():
    kept.append(numpy_helper.from_array(np.array(number), name))
  del graph.node[:], graph.initializer[:]
  graph.node.extend(nodes)
  graph.initializer.extend(kept)
  for x in graph.value_info:
    if x.name in codes:
      x.type.tensor_type.elem_type = TensorProto.UINT8
    elif x.name in products:
      x.type.tensor_type.elem_type = TensorProto.INT32


def _instead(
  node: 'NodeProto', codes: Collection[str], products: Collection[str]
) -> Iterator['NodeProto']:
  """What stands in the place of a node.

  Args:
    node: the node.
    codes: names of the codes of batches.
    products: names of products of codes.
  """
  from onnx import TensorProto, helper

  def unsigned(floats: str, result: str) -> 'NodeProto':
    inputs = [floats, _ONE, _ZERO]
    return helper.make_node('QuantizeLinear', inputs, [result])

  if node.output[0] in codes:  # a Cast of rounded numbers
    yield unsigned(node.input[0], node.output[0])
  elif node.output[0] in products:
    x, kernel = node.input[:2]
    names = f'{kernel}/float', f'{kernel}/unsigned'
    kind = TensorProto.FLOAT
    yield helper.make_node('Cast', [kernel], names[:1], to=kind)
    yield unsigned(*names)
    inputs = [x, names[1], _ZERO, _ZERO]
    yield helper.make_node('MatMulInteger', inputs, node.output)
  else:
    yield node
