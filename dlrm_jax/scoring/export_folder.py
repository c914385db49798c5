"""The folder of an export: what is in it, and how it is opened.

    model.json               columns, sizes, versions, metrics, sizes of files
    network.stablehlo        the network, as `jax.export` serializes it
    network.onnx             with --format=onnx: the network for onnxruntime;
                             its arrays are in the files of the next two lines
    parameters.safetensors   parameters of the layers, and their statistics
    tables/STACK.npy         rows of the tables, which are mapped, not read
    vocabulary/              vocabularies, and their lookup tables

Only `model.json` says what the files are; it is written last. `docs/export.md`
describes its fields.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrm_jax import files
from dlrm_jax.errors import InputError

MODEL = 'model.json'
NETWORK = 'network.stablehlo'
ONNX = 'network.onnx'
PARAMETERS = 'parameters.safetensors'
TABLES = 'tables'
VOCABULARY = 'vocabulary'

FORMAT = 1
"""Version of the folder; one more where older programs would misread it."""

_FIELDS: Mapping[str, type] = {
  'model': str,
  'labels': list,
  'inputs': dict,
  'tables': dict,
  'rows': dict,
  'raw': dict,
  'out_of_range': str,
  'shards': int,
  'run': dict,
  'layout': dict,
  'files': dict,
}

_DIGESTED = 1 << 26
"""Largest file whose digest is kept; of larger ones only the size is checked,
since tables are mapped and not read."""


def file_entry(path: Path) -> dict[str, Any]:
  """What `model.json` keeps of a file."""
  size = path.stat().st_size
  if size > _DIGESTED:
    return {'bytes': size}
  return {'bytes': size, 'sha256': _digest(path)}


def _digest(path: Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def read_description(folder: Path) -> dict[str, Any]:
  """The content of `model.json`, once all files were found to be whole.

  Raises:
    InputError: the folder is no export, is damaged, or of a newer version.
  """
  path = folder / MODEL
  try:
    about = files.read_json(path)
  except OSError as error:
    raise InputError(f'{path}: cannot be read: {error.strerror}') from None
  except ValueError as error:
    raise _damaged(path, f'no JSON: {error}') from None
  if not isinstance(about, dict) or 'format' not in about:
    raise InputError(f'{path}: not of an export of dlrm_jax: it has no format')
  if about['format'] != FORMAT:
    raise InputError(
      f'{path}: format {about["format"]!r}; this version of dlrm_jax reads '
      f'format {FORMAT}: install a version that is as new as the one that '
      f'exported it ({_made_by(about)})'
    )
  for name, kind in _FIELDS.items():
    if not isinstance(about.get(name), kind):
      raise _damaged(path, f'it has no {name}')
  with reading(folder):
    for name, entry in about['files'].items():
      _check_file(folder / name, entry)
  return about


def _made_by(about: Mapping[str, Any]) -> str:
  """The version of dlrm_jax that wrote a description."""
  versions = about.get('made_by')
  known = isinstance(versions, dict) and versions.get('dlrm_jax')
  return str(known or 'unknown')


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
  """Context in which fields of `model.json` are read.

  Raises:
    InputError: a field is missing, or holds something else.
  """
  try:
    yield
  except InputError:
    raise
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    why = f'what it says is not what was written: {error!r}'
    raise _damaged(folder / MODEL, why) from None


def _check_file(path: Path, entry: Mapping[str, Any]) -> None:
  if not path.is_file():
    raise _damaged(path, 'the file is missing')
  found = path.stat().st_size
  if found != entry['bytes']:
    raise _damaged(path, f'{found:,} bytes; expected {entry["bytes"]:,}')
  if 'sha256' in entry and _digest(path) != entry['sha256']:
    raise _damaged(path, f'not as it was written, says {MODEL}')


def _damaged(path: Path, why: str) -> InputError:
  return InputError(f'{path}: damaged ({why}); export the model again')


def read_parameters(folder: Path) -> dict[str, np.ndarray]:
  """The arrays of the layers, by name.

  Raises:
    InputError: the file is damaged.
  """
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  try:
    return load_file(folder / PARAMETERS)
  except SafetensorError as error:
    raise _damaged(folder / PARAMETERS, str(error)) from None


def map_tables(folder: Path, about: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The arrays of the tables, mapped: nothing is read.

  Raises:
    InputError: a file is damaged.
  """
  found = {}
  for name, entry in about['tables'].items():
    path = folder / entry['file']
    try:
      array = np.load(path, mmap_mode='r')
    except (OSError, ValueError) as error:
      raise _damaged(path, str(error)) from None
    if list(array.shape) != entry['shape'] or array.dtype != entry['dtype']:
      raise _damaged(path, f'{array.dtype}{list(array.shape)}')
    # A plain array over the map, whose slices are as fast as any.
    found[name] = np.asarray(array)
  return found
