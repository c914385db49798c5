"""Reads and writes files of PyTorch; nothing that is in a file is executed.

A `.pt` file is mapped, not read, and may hold tensors, numbers, texts, and the
NumPy scalars that facebookresearch/dlrm writes. Of a folder of
torch.distributed.checkpoint the list of its parts, a pickle, is read with
stand-ins for all classes, and each part as a file of tensors. PyTorch is
imported when a file is read or written.
"""

import collections
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.convert.scratch import Scratch
from dlrm_jax.errors import InputError

_METADATA = '.metadata'
_FLOATS = ('float32', 'float16', 'bfloat16')


def import_torch() -> Any:
  """The module `torch`.

  Raises:
    InputError: it is not installed.
  """
  try:
    import torch
  except ModuleNotFoundError:
    raise InputError(
      'PyTorch is not installed, and convert needs it: pip install '
      "'dlrm_jax[convert]'"
    ) from None
  return torch


class TorchArray(NamedTuple):
  """A tensor as an `Array`; its rows are read when they are asked for.

  Attributes:
    tensor: the tensor, which may be mapped from a file.
  """

  tensor: Any

  @property
  def shape(self) -> tuple[int, ...]:
    """Its shape."""
    return tuple(self.tensor.shape)

  @property
  def kind(self) -> str:
    """The name of its dtype."""
    return str(self.tensor.dtype).removeprefix('torch.')

  def __getitem__(self, rows: slice) -> np.ndarray:
    """Some rows, in float32; a view where they are that in the file."""
    return self.tensor[rows].detach().float().numpy()


def arrays_of(tree: Any, path: Path | None = None) -> dict[str, TorchArray]:
  """The tensors in nested dicts and lists; names of levels joined by dots.

  Args:
    tree: what a file holds.
    path: the file, for the error if it holds no dict; None: it holds one.
  """
  torch = import_torch()
  if path is not None and not isinstance(tree, Mapping):
    raise InputError(
      f'{path}: holds a {type(tree).__name__}; expected a dict of tensors, as '
      f'state_dict() gives it'
    )

  def walk(value: Any, name: str) -> Iterator[tuple[str, TorchArray]]:
    if isinstance(value, torch.Tensor):
      yield name, TorchArray(value)
    elif isinstance(value, Mapping | list | tuple):
      items = value.items() if isinstance(value, Mapping) else enumerate(value)
      for key, inner in items:
        yield from walk(inner, f'{name}.{key}' if name else str(key))

  return dict(walk(tree, ''))


def _numpy_scalars() -> list[Any]:
  """What a pickle of np.float64 or np.float32 names, in NumPy 1 and 2."""
  scalar = np.float64(0).__reduce__()[0]
  modules = 'numpy.core.multiarray', 'numpy._core.multiarray'
  named = [(scalar, f'{module}.scalar') for module in modules]
  return [*named, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType]


def read_file(path: Path) -> Any:
  """What `torch.save` wrote; tensors are mapped.

  Raises:
    InputError: it is another kind of file, is cut, or holds other objects.
  """
  torch = import_torch()
  _check_kind(path)
  mapped = zipfile.is_zipfile(path)  # before PyTorch 1.6 it was no archive
  try:
    with torch.serialization.safe_globals(_numpy_scalars()):
      return torch.load(
        path, map_location='cpu', weights_only=True, mmap=mapped
      )
  except OSError as error:
    raise InputError(f'{path}: cannot be read: {error.strerror}') from None
  # PyTorch has no one class for what is wrong with a file.
  except Exception as error:
    raise InputError(f'{path}: {_why_unread(path, error)}') from None


def _check_kind(path: Path) -> None:
  """Raises an error that names the kind of a file, where it has another."""
  try:
    with path.open('rb') as file:
      start = file.read(1024)
      size = file.seek(0, 2)
  except FileNotFoundError:
    raise InputError(f'{path}: there is no such file') from None
  except IsADirectoryError:
    raise InputError(f'{path}: is a folder; expected a file') from None
  except OSError as error:
    raise InputError(f'{path}: cannot be read: {error.strerror}') from None
  expected = 'expected a .pt file, as torch.save writes it'
  if not start:
    raise InputError(f'{path}: the file is empty; {expected}')
  header = int.from_bytes(start[:8], 'little')
  if start[8:9] == b'{' and header < size:
    raise InputError(f'{path}: a safetensors file; {expected}')
  if start.startswith(b'PK'):
    if not zipfile.is_zipfile(path):
      raise InputError(
        f'{path}: the file is cut: it has {size:,} bytes, and the list of its '
        f'parts, which is at the end, is missing; copy it again'
      )
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
    if any(name.endswith('/constants.pkl') for name in names):
      raise InputError(f'{path}: a program of TorchScript; {expected}')
    if not any(name.endswith('/data.pkl') for name in names):
      raise InputError(f'{path}: an archive with {names[:1]}; {expected}')
  elif not start.startswith(b'\x80'):
    raise InputError(f'{path}: no file of PyTorch; {expected}')


def _why_unread(path: Path, error: Exception) -> str:
  """Why PyTorch refused a file, in a line."""
  text = ' '.join(str(error).split())
  for mark in ('Unsupported global: GLOBAL ', 'Unsupported class '):
    if mark in text:
      found = text.partition(mark)[2].split()[0]
      return (
        f'holds {found}, which is no tensor, number or text, and is not '
        f'loaded, since that could run a program; expected a state_dict: save '
        f'model.state_dict(), not the model'
      )
  if isinstance(error, pickle.UnpicklingError) and not zipfile.is_zipfile(path):
    return 'a pickle that is no checkpoint of PyTorch'
  return f'damaged, or no checkpoint: {text[:200]}'


class _StandIn:
  """An object of a pickle: what it was made of, and nothing that acts."""

  def __new__(cls, *arguments: Any) -> Any:
    made = object.__new__(cls)
    made.__dict__['arguments'] = arguments
    return made

  def __init__(self, *arguments: Any) -> None:
    del arguments

  def __setstate__(self, state: Any) -> None:
    fields = state if isinstance(state, dict) else {'state': state}
    self.__dict__.update(fields)


class _StandIns(pickle.Unpickler):
  """Reads a pickle whose classes and functions are all stand-ins."""

  def find_class(self, module: str, name: str) -> Any:
    """A stand-in that remembers the name; nothing is imported."""
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    return type(name, (_StandIn,), {'__module__': module})


class _Part(NamedTuple):
  """A part of a tensor in a file of a folder.

  Attributes:
    where: the rows and columns of the tensor that it has.
    path: the file.
    offset: its first byte.
    length: number of its bytes.
  """

  where: tuple[slice, ...]
  path: Path
  offset: int
  length: int


class _Listed(NamedTuple):
  """A tensor in a folder: its shape, the name of its dtype, its parts."""

  shape: tuple[int, ...]
  kind: str
  parts: list[_Part]


def _dims(size: Any) -> tuple[int, ...]:
  """The numbers of a torch.Size that was read with stand-ins."""
  return tuple(size.arguments[0]) if size.arguments else ()


def _listed(folder: Path) -> dict[str, _Listed]:
  """The tensors that the list of a folder names."""
  with (folder / _METADATA).open('rb') as file:
    metadata = _StandIns(file).load()
  tensors, sizes = {}, {}
  for name, about in metadata.state_dict_metadata.items():
    if type(about).__name__ != 'TensorStorageMetadata':
      continue
    kind = about.properties.state[0].__name__
    tensors[name] = _Listed(_dims(about.size), kind, [])
    for chunk in about.chunks:
      sizes[name, _dims(chunk.offsets)] = _dims(chunk.sizes)
  for index, info in metadata.storage_data.items():
    if index.fqn not in tensors:
      continue
    if getattr(info, 'transform_descriptors', None):
      raise InputError(
        f'{folder}: {index.fqn} is kept as {info.transform_descriptors}; '
        f'expected tensors that are not compressed'
      )
    start = _dims(index.offset)
    where = tuple(
      slice(low, low + count)
      for low, count in zip(start, sizes[index.fqn, start], strict=True)
    )
    path = folder / Path(info.relative_path).name
    part = _Part(where, path, info.offset, info.length)
    tensors[index.fqn].parts.append(part)
  return tensors


class _Window:
  """Some bytes of an open file, as a file."""

  def __init__(self, file: Any, offset: int, length: int) -> None:
    self._file, self._offset, self._length = file, offset, length
    self._at = 0

  def seek(self, to: int, whence: int = 0) -> int:
    self._at = to + (0, self._at, self._length)[whence]
    return self._at

  def tell(self) -> int:
    return self._at

  def read(self, size: int = -1) -> bytes:
    left = max(self._length - self._at, 0)
    self._file.seek(self._offset + self._at)
    found = self._file.read(left if size < 0 else min(size, left))
    self._at += len(found)
    return found

  def readline(self) -> bytes:
    raise OSError('a tensor has no lines')


def read_folder(folder: Path, scratch: Scratch) -> dict[str, TorchArray]:
  """The tensors in a folder of torch.distributed.checkpoint, by name.

  One part of a tensor is in memory at a time.

  Args:
    folder: the folder.
    scratch: makes the arrays that the parts are put into.

  Raises:
    InputError: it is another folder, or is damaged.
  """
  torch = import_torch()
  if not (folder / _METADATA).is_file():
    raise InputError(
      f'{folder}: a folder without {_METADATA}; expected one that '
      f'torch.distributed.checkpoint.save wrote, or a .pt file'
    )
  try:
    listed = _listed(folder)
  except InputError:
    raise
  # Whatever a damaged pickle makes of the stand-ins.
  except Exception as error:
    raise InputError(
      f'{folder / _METADATA}: damaged, or no list of '
      f'torch.distributed.checkpoint ({error!r})'
    ) from None
  found = {}
  for name, (shape, kind, parts) in listed.items():
    if kind not in _FLOATS or not shape:
      dtype = getattr(torch, kind)
      found[name] = TorchArray(torch.empty(shape, dtype=dtype, device='meta'))
      continue
    target = scratch.array(shape, np.float32)
    for part in parts:
      target[part.where] = _read_part(name, part)
    found[name] = TorchArray(torch.from_numpy(target))
  return found


def _read_part(name: str, part: _Part) -> np.ndarray:
  torch = import_torch()
  shape = tuple(x.stop - x.start for x in part.where)
  try:
    with part.path.open('rb') as file:
      window = _Window(file, part.offset, part.length)
      tensor = torch.load(window, map_location='cpu', weights_only=True)
    values = tensor.detach().float().numpy()
    if values.shape != shape:
      raise ValueError(f'shape {values.shape}; expected {shape}')
  except OSError as error:
    raise InputError(
      f'{part.path}: cannot be read: {error.strerror or error}'
    ) from None
  # PyTorch has no one class for what is wrong with a file.
  except Exception as error:
    raise InputError(
      f'{part.path}: damaged: {name} cannot be read there: '
      f'{" ".join(str(error).split())[:200]}'
    ) from None
  return values


def tensor_of(array: np.ndarray) -> Any:
  """A tensor that shares the memory of an array."""
  return import_torch().from_numpy(array)


def write_file(content: Any, path: Path) -> None:
  """Writes a `.pt` file; tensors are written from where they are."""
  import_torch().save(content, path)


def write_folder(content: Mapping[str, Any], path: Path) -> None:
  """Writes a folder of torch.distributed.checkpoint, as one process does."""
  import_torch()
  import warnings

  from torch.distributed import checkpoint

  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # that there is one process
    checkpoint.save(dict(content), checkpoint_id=path, no_dist=True)
