"""Reads and writes files of PyTorch; nothing that is in a file is executed.

A `.pt` file is mapped, not read, and may hold tensors, numbers, texts, the
NumPy scalars that facebookresearch/dlrm writes, and the tensors of torchrec in
which several numbers share a byte. PyTorch is imported when a file is read or
written.
"""

import dataclasses
import functools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrm_jax.errors import InputError

FLOATS = ('float32', 'float16', 'bfloat16')
"""Dtypes whose numbers are exact in float32."""


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


@dataclasses.dataclass(frozen=True)
class TorchArray:
  """A tensor as an `Array`; its rows are read when they are asked for.

  Attributes:
    tensor: the tensor, which may be mapped from a file.
    unit: how many numbers share a byte of it, as torchrec's class of the tensor
      says.
  """

  tensor: Any
  unit: int = 1

  @property
  def shape(self) -> tuple[int, ...]:
    """Its shape."""
    return tuple(self.tensor.shape)

  @property
  def kind(self) -> str:
    """The name of its dtype."""
    return str(self.tensor.dtype).removeprefix('torch.')

  @property
  def on_meta(self) -> bool:
    """Whether it has a shape alone, and no numbers."""
    return self.tensor.is_meta

  @property
  def numpy(self) -> np.ndarray:
    """All of it in its own dtype, as a view."""
    return self.tensor.detach().numpy()

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
    if isinstance(value, tuple(_sharing())):
      yield name, TorchArray(_bytes_of(value, name), value.unit)
    elif isinstance(value, torch.Tensor):
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


@functools.cache
def _sharing() -> Mapping[Any, str]:
  """Stand-ins for torchrec's classes of tensors, with the names of those.

  They keep what a file says of a tensor, and compute nothing.
  """
  torch = import_torch()

  class Sharing(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, *arguments: Any) -> Any:
      raise NotImplementedError(f'{cls.__name__}: {arguments[0]}')

  return {
    type(name, (Sharing,), {'unit': unit}): f'torchrec.tensor_types.{name}'
    for name, unit in (('UInt4Tensor', 2), ('UInt2Tensor', 4))
  }


def _bytes_of(tensor: Any, name: str) -> Any:
  """The bytes of a tensor of torchrec, a tensor as well."""
  found = vars(tensor).get('elem')
  if type(found) is not import_torch().Tensor:
    raise InputError(f'{name}: a {type(tensor).__name__} without bytes (elem)')
  return found


def read_file(path: Path) -> Any:
  """What `torch.save` wrote; tensors are mapped.

  Raises:
    InputError: it is another kind of file, is cut, or holds other objects.
  """
  torch = import_torch()
  _check_kind(path)
  mapped = zipfile.is_zipfile(path)  # before PyTorch 1.6 it was no archive
  try:
    allowed = [*_numpy_scalars(), *_sharing().items()]
    with torch.serialization.safe_globals(allowed):
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
  if found := re.search(r'(?:GLOBAL|class) ([\w.]+)', text):
    return (
      f'holds {found[1]}, which is no tensor, number or text, and is not '
      f'loaded, since that could run a program; expected a state_dict: save '
      f'model.state_dict(), not the model'
    )
  if not zipfile.is_zipfile(path):
    return 'a pickle that is no checkpoint of PyTorch, or a damaged one'
  return f'damaged, or no checkpoint: {text.partition(". ")[0][:200]}'


def tensor_of(array: np.ndarray) -> Any:
  """A tensor that shares the memory of an array."""
  return import_torch().from_numpy(array)


def write_file(content: Any, path: Path) -> None:
  """Writes a `.pt` file; tensors are written from where they are.

  Raises:
    OSError: it cannot be written.
  """
  torch = import_torch()
  try:
    torch.save(content, path)
  except RuntimeError as error:  # PyTorch's own writer
    raise _unwritten(error) from error


def write_folder(content: Mapping[str, Any], path: Path) -> None:
  """Writes a folder of torch.distributed.checkpoint, as one process does.

  Raises:
    OSError: it cannot be written.
  """
  import_torch()
  import warnings

  from torch.distributed import checkpoint
  from torch.distributed.checkpoint.api import CheckpointException

  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # that there is one process
      checkpoint.save(dict(content), checkpoint_id=path, no_dist=True)
  except CheckpointException as error:
    raise _unwritten(*error.failures.values()) from error


def _unwritten(*errors: Any) -> OSError:
  """The error of the system behind those of PyTorch, which do not say it."""
  text = ' '.join(str(x[0] if isinstance(x, tuple) else x) for x in errors)
  return OSError(f'is the disk full? {" ".join(text.split())[:100]}')
