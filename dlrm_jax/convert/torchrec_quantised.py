"""Quantised tables in a state dict of torchrec.

`quantize_embeddings` and `quantize_inference_model` make `weight` of a table
bytes, u8[R, W]; those of 4 and 2 bits are of classes of their own. With
`quant_prep_enable_quant_state_dict_split_scale_bias` scale and bias lie apart,
in `weight_qscale` and `weight_qbias`. `quantize_inference_model` also has the
buffers of the kernels, `tbes.0...`, of which `weights_tys` has the types of
tables. Else they follow from the width of rows and the zeros at their ends.
"""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dlrm_jax.convert.packed import (
  ALIGNMENT,
  STORAGES,
  PackedTable,
  fitting,
  sizes,
)
from dlrm_jax.convert.program import Array, weights
from dlrm_jax.convert.torch_files import TorchArray
from dlrm_jax.embedding.low_precision import FLOAT16, INT2, INT4, INT8, Codes
from dlrm_jax.embedding.storage import FLOAT32, Storage
from dlrm_jax.errors import InputError

BAGS = 'sparse_arch.embedding_bag_collection.embedding_bags.'
KERNELS = 'sparse_arch.embedding_bag_collection.tbes.'
BOTTOM_WEIGHT = r'dense_arch\.model\._mlp\.(\d+)\._linear\.weight'
_DTYPES: Mapping[Storage, str] = {
  INT8: 'torch.qint8',
  INT4: 'torch.quint4x2',
  INT2: 'torch.quint2x4',
  FLOAT16: 'torch.half',
  FLOAT32: 'torch.float',
}
_TYPES = {0: FLOAT32, 1: FLOAT16, 2: INT8, 3: INT4, 4: INT2}
_BYTES = 'uint8'


def with_packed_tables(
  tensors: Mapping[str, TorchArray],
  kernels: Mapping[str, TorchArray],
  path: Path,
) -> dict[str, Array]:
  """Tensors of a model, of which quantised tables are `PackedTable`s.

  Args:
    tensors: by name, without what wraps the model.
    kernels: those of kernels.
    path: the file, for messages.

  Raises:
    InputError: rows are none that torchrec has, or something is missing.
  """
  tables = [
    name
    for name, x in tensors.items()
    if name.startswith(BAGS) and name.endswith('.weight') and x.kind == _BYTES
  ]
  if not tables:
    return dict(tensors)
  types = _types(kernels, tables, path)
  dim = _width(tensors, tables[0], path)
  parts = {f'{name}_q{part}' for name in tables for part in ('scale', 'bias')}
  return {
    name: _packed(name, tensors, dim, types.get(name), path)
    if name in tables
    else x
    for name, x in tensors.items()
    if name not in parts
  }


def _types(
  kernels: Mapping[str, TorchArray], tables: Sequence[str], path: Path
) -> dict[str, Storage]:
  """The storages that the buffers of the one kernel of all tables name."""
  found = [x for name, x in kernels.items() if name.endswith('.weights_tys')]
  if len(found) != 1 or found[0].shape != (len(tables),):
    return {}
  types = dict(zip(tables, found[0].numpy.tolist(), strict=True))
  for name, number in types.items():
    if number not in _TYPES:
      raise InputError(
        f'{path}: {name} is of type {number} by weights_tys; expected one of '
        f'{", ".join(f"{k} ({x.name})" for k, x in _TYPES.items())}'
      )
  return {name: _TYPES[number] for name, number in types.items()}


def _width(tensors: Mapping[str, Array], table: str, path: Path) -> int:
  """D, the width of all vectors: the outputs of the bottom MLP."""
  shapes = {name: x.shape for name, x in tensors.items()}
  layers = weights(shapes, BOTTOM_WEIGHT)
  if not layers:
    raise InputError(
      f'{path}: has {table}, quantised, and no '
      f'dense_arch.model._mlp.0._linear.weight; expected the state dict of a '
      f'whole DLRM, whose last layer there says how wide tables are'
    )
  return [*layers.values()][-1][0]


def _packed(
  name: str,
  tensors: Mapping[str, TorchArray],
  dim: int,
  known: Storage | None,
  path: Path,
) -> PackedTable:
  """A quantised table.

  Args:
    name: its name.
    tensors: all tensors.
    dim: D.
    known: its storage, where the file names it.
    path: the file, for messages.
  """
  x = tensors[name]
  if len(x.shape) != 2 or x.on_meta:
    raise InputError(
      f'{path}: {name} is {_BYTES}, quantised, of shape {list(x.shape)}; '
      f'expected bytes of rows, [R, W], in a .pt file of torch.save'
    )
  title, rows = f'{path}: {name}', x.numpy
  if x.unit > 1:
    known = INT4 if x.unit == INT4.unit else INT2
  apart = _apart(name, tensors, path)
  if apart is not None:
    fits = tuple(
      x
      for x in STORAGES
      if isinstance(x, Codes) and rows.shape[1] * x.unit == dim
    )
  elif known is not None:
    # Their zeros need not be looked at; kernels of GPUs may have others there.
    fits = tuple(
      x
      for x, size in sizes(dim)
      if x == known and size <= rows.shape[1] < size + ALIGNMENT
    )
  else:
    fits = fitting(rows, dim)
  if not fits:
    said = [f'{size} in {x.name}' for x, size in sizes(dim)]
    raise InputError(
      f'{title} has shape {list(rows.shape)}'
      f'{f" in {known.name}" if known else ""}; rows of {dim} values, as '
      f'dense_arch has outputs, have {", ".join(said)} bytes, and then zeros, '
      f'fewer than {ALIGNMENT}'
      f'{"; less 4 where scale and bias lie apart" if apart else ""}'
    )
  return PackedTable(title, rows, dim, fits, apart)


def _apart(
  name: str, tensors: Mapping[str, TorchArray], path: Path
) -> tuple[np.ndarray, np.ndarray] | None:
  """Scales and biases of a table that lie apart; None: they do not."""
  names = [f'{name}_qscale', f'{name}_qbias']
  there = [part for part in names if part in tensors]
  if not there:
    return None
  rows = tensors[name].shape[0]
  for part in names:
    x = tensors.get(part)
    if x is None:
      raise InputError(f'{path}: has {there[0]} and no {part}')
    if (x.shape, x.kind) != ((rows, 1), 'float16'):
      raise InputError(
        f'{path}: {part} is {x.kind} of shape {list(x.shape)}; expected '
        f'float16 of shape {[rows, 1]}'
      )
  scale, bias = (tensors[part].numpy[:, 0] for part in names)
  return scale, bias


def load_quantised(storages: Mapping[str, Storage]) -> str:
  """The call that quantises a model so that it has such tables.

  Args:
    storages: by name of the tensor.

  >>> load_quantised({f'{BAGS}a.weight': INT8, f'{BAGS}b.weight': INT4})
  "quantize_embeddings(model, torch.qint8, inplace=True, \
per_table_weight_dtype={'b': torch.quint4x2})"
  """
  dtypes = {
    name.removeprefix(BAGS).removesuffix('.weight'): _DTYPES[storage]
    for name, storage in storages.items()
  }
  most = collections.Counter(dtypes.values()).most_common(1)[0][0]
  others = [f"'{name}': {x}" for name, x in dtypes.items() if x != most]
  options = ['model', most, 'inplace=True']
  if others:
    options.append(f'per_table_weight_dtype={{{", ".join(others)}}}')
  return f'quantize_embeddings({", ".join(options)})'
