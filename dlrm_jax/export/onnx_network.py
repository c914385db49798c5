"""`network.onnx` of an export: its weights are the files beside it.

The graph is small: the layers and tables are external data, at an offset in
`parameters.safetensors` and `tables/STACK.npy`. So nothing is written twice,
and onnxruntime maps tables as `dlrm_jax.load` does.
"""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dlrm_jax.embedding.network import Network
from dlrm_jax.errors import InputError
from dlrm_jax.export.onnx_check import check_probabilities
from dlrm_jax.export.onnx_graph import Arguments, arguments_of, graph_of
from dlrm_jax.scoring import export_folder

if TYPE_CHECKING:
  from onnx import GraphProto

NEEDED = 'jax2onnx', 'onnx', 'onnxruntime'
"""Packages of the extra `onnx`."""


def check_installed() -> None:
  """Raises InputError where a package of the extra `onnx` is missing."""
  missing = [n for n in NEEDED if importlib.util.find_spec(n) is None]
  if missing:
    raise InputError(
      f"--format=onnx needs {', '.join(missing)}: pip install 'dlrm_jax[onnx]'"
    )


class _Place(NamedTuple):
  """Where the numbers of an array are, with the names that ONNX uses.

  Attributes:
    location: the file, relative to that of the graph.
    offset: of the first byte.
    length: number of bytes.
  """

  location: str
  offset: int
  length: int


def write_onnx(
  folder: Path, network: Network, tables: Mapping[str, Any], *, weighted: bool
) -> None:
  """Writes `network.onnx` into the folder of an export, and checks it.

  Args:
    folder: the folder, with `parameters.safetensors` and the tables.
    network: the flat network.
    tables: the files of the tables, as in `model.json`.
    weighted: whether it takes the weights of ids.

  Raises:
    InputError: the network cannot be converted, or onnxruntime gives other
      probabilities.
  """
  import onnx
  from safetensors.numpy import load_file

  parameters = load_file(folder / export_folder.PARAMETERS)
  arguments = arguments_of(network, parameters, weighted=weighted)
  model = graph_of(network, arguments)
  places = dict(_in_safetensors(folder / export_folder.PARAMETERS))
  mapped = {
    name: np.load(folder / entry['file'], mmap_mode='r')
    for name, entry in tables.items()
  }
  for name, x in mapped.items():
    places[name] = _Place(tables[name]['file'], x.offset, x.nbytes)
  _make_constant(model.graph, arguments, places)
  path = folder / export_folder.ONNX
  onnx.save(model, path)
  onnx.checker.check_model(path)
  error = check_probabilities(path, network, parameters, mapped)
  note = '; large sums, or codes, are rounded otherwise' if error > 1e-5 else ''
  print(
    f"{export_folder.ONNX}: onnxruntime's probabilities of random rows are "
    f"within {error:.1g} of JAX's{note}"
  )


def _in_safetensors(path: Path) -> Iterator[tuple[str, _Place]]:
  """Places of the arrays of a file of safetensors.

  Its head is JSON behind its own length, u64; offsets count from its end.
  Source: https://huggingface.co/docs/safetensors, section Format.
  """
  with path.open('rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    head = json.loads(file.read(length))
  for name, entry in head.items():
    if name != '__metadata__':
      start, end = entry['data_offsets']
      yield name, _Place(path.name, 8 + length + start, end - start)


def _make_constant(
  graph: 'GraphProto', arguments: Arguments, places: Mapping[str, _Place]
) -> None:
  """Turns the inputs of a graph that are in files into constants."""
  from onnx import TensorProto, helper

  inputs = [x for x in graph.input if x.name in arguments.inputs]
  used = [x.name for x in graph.input if x.name in places]
  del graph.input[:]
  graph.input.extend(inputs)
  for name in used:
    shape = arguments.shapes[name]
    tensor = graph.initializer.add(
      name=name,
      dims=shape.shape,
      data_type=helper.np_dtype_to_tensor_dtype(shape.dtype),
      data_location=TensorProto.EXTERNAL,
    )
    for key, value in places[name]._asdict().items():
      tensor.external_data.add(key=key, value=str(value))
