"""`network.onnx` of an export: its weights are the files beside it.

The graph is small: the layers and tables are external data, at an offset in
`parameters.safetensors` and `tables/STACK.npy`. So nothing is written twice,
and onnxruntime maps tables as `dlrm_jax.load` does.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrm_jax import graph
from dlrm_jax.embedding.network import Network
from dlrm_jax.errors import InputError
from dlrm_jax.export.onnx_check import check_probabilities
from dlrm_jax.export.onnx_graph import graph_of
from dlrm_jax.graph.builder import Place
from dlrm_jax.scoring import export_folder


def check_installed() -> None:
  """Raises InputError where a package of the extra `onnx` is missing."""
  if missing := graph.missing():
    raise InputError(
      f"--format=onnx needs {', '.join(missing)}: pip install 'dlrm_jax[onnx]'"
    )


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
  mapped = {
    name: np.load(folder / entry['file'], mmap_mode='r')
    for name, entry in tables.items()
  }
  in_safetensors = dict(_in_safetensors(folder / export_folder.PARAMETERS))
  places = {_bytes_of(x): in_safetensors[k] for k, x in parameters.items()}
  for name, x in mapped.items():
    place = Place(tables[name]['file'], x.offset, x.nbytes)
    places[_bytes_of(x)] = place

  def place_of(array: np.ndarray) -> Place | None:
    whole = array.nbytes and array.flags.c_contiguous
    return places.get(_bytes_of(array)) if whole else None

  arrays = parameters, {name: np.asarray(x) for name, x in mapped.items()}
  model = graph_of(network, *arrays, place_of, weighted=weighted)
  path = folder / export_folder.ONNX
  onnx.save(model, path)
  onnx.checker.check_model(path)
  error = check_probabilities(path, network, parameters, mapped)
  note = '; large sums, or codes, are rounded otherwise' if error > 1e-5 else ''
  print(
    f"{export_folder.ONNX}: onnxruntime's probabilities of random rows are "
    f"within {error:.1g} of JAX's{note}"
  )


def _bytes_of(array: np.ndarray) -> tuple[int, int]:
  """Address and number of the bytes of an array."""
  return array.__array_interface__['data'][0], array.nbytes


def _in_safetensors(path: Path) -> Iterator[tuple[str, Place]]:
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
      yield name, Place(path.name, 8 + length + start, end - start)
